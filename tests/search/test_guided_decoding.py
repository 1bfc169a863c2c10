"""Reward-guided decoding, against numbers worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from token_model import TokenAsk, decode, table

from posttrain.errors import ConfigError
from posttrain.search.base import Candidate
from posttrain.search.guided_decoding import guided_decoding

ROWS = {"": {"a": 0.6, "b": 0.3, "c": 0.1}, "b": {"c": 0.5, "d": 0.5}}
MODEL = table(ROWS, {".": 1.0})


def test_the_score_of_the_text_so_far_turns_the_choice(scores: Any, search: Any) -> None:
    # log .6 + w * 0 < log .3 + w * 1  from  w = log 2 = .693.
    def wants_b(candidate: Candidate) -> float:
        return float("b" in candidate.text)

    for weight, text in ((0.68, "a"), (0.71, "bc")):
        ask = TokenAsk(MODEL)
        program = guided_decoding(
            (50,), ask, str, decode, scores(wants_b), score_weight=weight, num_candidates=3
        )
        s = search(program)
        assert s.text == text and s.notes == {"num_changed": float(text != "a")}
        assert ask.budget.num_tokens == len(text) + 1
        assert s.candidates[0].ended


def test_the_scorer_reads_whole_texts(search: Any) -> None:
    read: list[list[tuple[str, bool]]] = []

    async def score(candidates: Any) -> list[float]:
        read.append([(c.text, c.ended) for c in candidates])
        return [1.0 * (c.text[:1] == "b") + 1.0 * c.text.endswith("d") for c in candidates]

    s = search(guided_decoding((50,), TokenAsk(MODEL), str, decode, score, num_candidates=3))
    assert read == [
        [("a", False), ("b", False), ("c", False)],
        [("bc", False), ("bd", False)],
    ]  # the end is the only token of the last place, and needs no score
    assert s.text == "bd" and s.candidates[0].logprob == pytest.approx(math.log(0.3 * 0.5))


def test_tokens_outside_the_likeliest_are_not_taken(scores: Any, search: Any) -> None:
    program = guided_decoding(
        (50,),
        TokenAsk(MODEL),
        str,
        decode,
        scores(lambda c: 100.0 * (c.text == "c")),
        num_candidates=2,
    )
    assert search(program).text == "a"


def test_tokens_without_a_score_come_last(scores: Any, search: Any) -> None:
    none = scores(lambda c: -math.inf)
    assert search(guided_decoding((50,), TokenAsk(MODEL), str, decode, none)).text == "a"
    some = scores(lambda c: 0.0 if c.text == "c" else -math.inf)
    assert search(guided_decoding((50,), TokenAsk(MODEL), str, decode, some)).text == "c"


@pytest.mark.parametrize("budget", range(4))
def test_a_budget_ends_it_with_a_selection(scores: Any, search: Any, budget: int) -> None:
    ask = TokenAsk(table({}, {"a": 0.6, "b": 0.4}), budget=budget)
    s = search(guided_decoding((50,), ask, str, decode, scores(lambda c: 0.0)))
    assert s.text == "a" * budget and ask.budget.num_tokens == budget


def test_refuses_a_weight_below_0(scores: Any, search: Any) -> None:
    none = scores(lambda c: 0.0)
    with pytest.raises(ConfigError, match="score_weight"):
        search(guided_decoding((50,), TokenAsk(MODEL), str, decode, none, score_weight=-0.1))
