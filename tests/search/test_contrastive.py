"""Contrastive decoding, against numbers worked by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from token_model import TokenAsk, decode, encode, table

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.search.base import Ids, Selection
from posttrain.search.contrastive import contrastive_decoding

EXPERT = table({"": {"a": 0.5, "b": 0.4, "c": 0.06, "d": 0.04}}, {".": 1.0})


class Amateur:
    """A weaker model. asked: contexts and ids."""

    def __init__(self, probs: dict[str, float]) -> None:
        self.probs = {encode(c)[0]: p for c, p in probs.items()}
        self.asked: list[tuple[Ids, list[int]]] = []

    async def __call__(self, context: Ids, ids: Any) -> list[float]:
        self.asked.append((context, list(ids)))
        return [math.log(self.probs[i]) for i in ids]


def test_what_the_amateur_likes_too_counts_less(search: Any) -> None:
    # 1.5 log .5 - .5 log .8 = -.928;  1.5 log .4 - .5 log .1 = -.223;
    # "d" would win by 1.5 log .04 - .5 log 1e-6 = 2.08, and .04 is below .1 * .5.
    amateur = Amateur({"a": 0.8, "b": 0.1, "c": 0.1, "d": 1e-6})
    s = search(contrastive_decoding((50,), TokenAsk(EXPERT), str, decode, amateur))
    assert s.text == "b" and s.candidates[0].logprob == pytest.approx(math.log(0.4))
    assert amateur.asked == [((50,), [10, 11, 12])]  # nothing where one token is plausible
    assert s.notes == {"num_contrasted": 1.0, "num_changed": 1.0, "num_truncated": 0.0}


def test_the_weight_turns_the_choice(search: Any) -> None:
    # (1 + w) log .5 - w log .8 < (1 + w) log .4 - w log .3  from  w = .223 / (.981 - .223) = .294.
    amateur = Amateur({"a": 0.8, "b": 0.3, "c": 0.9})
    for weight, text in ((0.28, "a"), (0.31, "b")):
        ask = TokenAsk(EXPERT)
        program = contrastive_decoding(
            (50,), ask, str, decode, amateur, contrast_weight=weight, min_p=0.5
        )
        assert search(program).text == text


def test_a_mask_that_is_not_covered_is_reported(search: Any) -> None:
    amateur = Amateur({"a": 0.1, "b": 0.5, "c": 0.4})
    program = contrastive_decoding((50,), TokenAsk(EXPERT), str, decode, amateur, num_candidates=2)
    assert search(program).notes["num_truncated"] == 1.0


@pytest.mark.parametrize("budget", range(4))
def test_a_budget_ends_it_with_a_selection(search: Any, budget: int) -> None:
    endless = table({}, {"a": 0.6, "b": 0.4})
    ask = TokenAsk(endless, budget=budget)
    s = search(contrastive_decoding((50,), ask, str, decode, Amateur({"a": 0.9, "b": 0.1})))
    assert s.text == "b" * budget and not s.candidates[0].ended
    assert ask.budget.num_tokens == budget


def test_refuses_settings_out_of_range(search: Any) -> None:
    args: Any = ((50,), TokenAsk(EXPERT), str, decode, Amateur({}))
    with pytest.raises(ConfigError, match="min_p"):
        search(contrastive_decoding(*args, min_p=0.0))
    with pytest.raises(ConfigError, match="contrast_weight"):
        search(contrastive_decoding(*args, contrast_weight=-1.0))


def test_the_amateur_is_another_model() -> None:
    expert, amateur = pt.load("embedded"), pt.load("embedded")
    with torch.no_grad():
        for parameter in amateur.hf.parameters():
            parameter.mul_(0.8)
    (s,) = pt.run_search(
        expert,
        "Q: 3+4\nA:",
        "contrastive_decoding",
        sampling=pt.Sampling(max_tokens=10),
        amateur=amateur,
    )
    assert isinstance(s, Selection) and s.ledger is not None
    assert s.ledger.num_scored >= 2 * s.notes["num_contrasted"] > 0
    with pytest.raises(ConfigError, match="amateur"):
        pt.run_search(expert, "Q: 3+4\nA:", "contrastive_decoding")
    with pytest.raises(ConfigError, match="amateur"):
        pt.run_search(expert, "Q: 3+4\nA:", "greedy", amateur=amateur)
    amateur.tokenizer = SimpleNamespace(get_vocab=lambda: {"a": 0})
    with pytest.raises(ConfigError, match="vocabulary"):
        pt.run_search(expert, "Q: 3+4\nA:", "contrastive_decoding", amateur=amateur)
