"""Greedy decoding, and what equals it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from token_model import TokenAsk, decode, table

import posttrain as pt
from posttrain.engines.torch import TorchEngine
from posttrain.search.base import Selection
from posttrain.search.contrastive import contrastive_decoding
from posttrain.search.cot_decoding import cot_decoding
from posttrain.search.greedy import greedy
from posttrain.search.guided_decoding import guided_decoding
from posttrain.search.token_beam import diverse_beam, token_beam

ROWS = {"": {"a": 0.6, "b": 0.4}, "a": {"b": 0.5, "c": 0.3, ".": 0.2}, "ab": {".": 0.7, "c": 0.3}}
MODEL = table(ROWS, {".": 0.9, "a": 0.1})


async def equal(context: Any, ids: Any) -> list[float]:
    """An amateur that has no preference."""
    return [-1.0] * len(ids)


async def no_score(candidates: Any) -> list[float]:
    return [0.0] * len(candidates)


SAME: list[Callable[[Any], Any]] = [
    lambda ask: token_beam((50,), ask, str, decode, num_beams=1),
    lambda ask: diverse_beam((50,), ask, str, decode, num_beams=1, num_groups=1),
    lambda ask: cot_decoding((50,), ask, str, decode, num_branches=1),
    lambda ask: cot_decoding((50,), ask, lambda text: None, decode, num_branches=3),
    lambda ask: contrastive_decoding((50,), ask, str, decode, equal, contrast_weight=0.0),
    lambda ask: contrastive_decoding((50,), ask, str, decode, equal, min_p=1.0),
    lambda ask: contrastive_decoding((50,), ask, str, decode, equal),
    lambda ask: guided_decoding((50,), ask, str, decode, no_score),
    lambda ask: guided_decoding((50,), ask, str, decode, no_score, num_candidates=1),
]


@pytest.mark.parametrize("program", SAME)
@pytest.mark.parametrize("max_tokens", [1, 2, 8])
def test_what_equals_greedy_decoding(search: Any, program: Any, max_tokens: int) -> None:
    plain = search(greedy((50,), TokenAsk(MODEL, max_tokens=max_tokens), str))
    found = search(program(TokenAsk(MODEL, max_tokens=max_tokens)))
    ours, theirs = found.candidates[found.index], plain.candidates[0]
    assert (ours.ids, ours.text, ours.ended) == (theirs.ids, theirs.text, theirs.ended)
    assert ours.logprob == pytest.approx(theirs.logprob)
    assert plain.candidates[0].text == "ab"[:max_tokens]


def test_on_the_embedded_model_too() -> None:
    """With the model as its own amateur, and an engine that holds prefixes."""
    model = pt.load("embedded")
    sampling = pt.Sampling(max_tokens=12)
    prompts = ["Q: 3+4\nA:", "Q: 12-5+2\nA:"]
    engine = TorchEngine(model)
    plain = pt.run_search(model, prompts, "greedy", sampling=sampling, engine=engine)
    cases: list[tuple[str, dict[str, int]]] = [
        ("token_beam", {"num_beams": 1}),
        ("cot_decoding", {"num_branches": 1}),
        ("contrastive_decoding", {}),
    ]
    for name, settings in cases:
        strategy: Any = {"name": name, **settings}
        more: Any = {"amateur": model} if name == "contrastive_decoding" else {}
        engine = TorchEngine(model)
        found = pt.run_search(model, prompts, strategy, sampling=sampling, engine=engine, **more)
        for one, other in zip(plain, found, strict=True):
            assert isinstance(one, Selection) and isinstance(other, Selection)
            assert one.candidates[0].ids == other.candidates[0].ids
            assert one.candidates[0].logprobs == pytest.approx(
                other.candidates[0].logprobs, abs=1e-4
            )
        assert engine.stats.reused_tokens > 0 or name == "cot_decoding"
