"""What every engine refuses, and the comparison of its log-probs with a trainer's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from posttrain.engines.base import agreement, check_requests, probe
from posttrain.errors import ConfigError, DataError
from posttrain.types import Request, Sample, Sampling


def check(request: Request) -> None:
    good = Request((1, 2), Sampling())
    check_requests([good, request], vocab_size=10, context_length=4)


@pytest.mark.parametrize("ids", [(), (10,), (3, -1), (1, 2, 3, 4)])
def test_prompts_that_cannot_be_sampled_from(ids: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="request 1"):
        check(Request(ids, Sampling()))


@pytest.mark.parametrize(
    "changes",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": math.inf},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 1.0},
        {"stop": ("a", "")},
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, Any]) -> None:
    (field,) = changes
    with pytest.raises(ConfigError, match=f"request 1: {field}"):
        check(Request((1,), Sampling(**changes)))


def test_a_request_for_no_sample_is_refused() -> None:
    with pytest.raises(ConfigError, match="request 1: n"):
        check(Request((1,), Sampling(), n=0))


@pytest.mark.parametrize("count", [-1, 11])
def test_as_many_likeliest_ids_as_the_vocabulary_has(count: int) -> None:
    check(Request((1,), Sampling(), num_top_logprobs=10))
    with pytest.raises(ConfigError, match="request 1: num_top_logprobs"):
        check(Request((1,), Sampling(), num_top_logprobs=count))


def test_the_bounds_pass() -> None:
    edge = Sampling(max_tokens=1, temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)
    check(Request((0, 9, 1), edge))
    check_requests([Request((1,) * 50, edge)], vocab_size=2, context_length=None)


def sample(*logprobs: float) -> Sample:
    return Sample([5] * len(logprobs), list(logprobs), list(logprobs), "stop")


def score(sequences: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
    """-1 for every token."""
    return [[-1.0] * (len(ids) - start) for ids, start in sequences]


def test_gaps_are_absolute_and_over_all_tokens() -> None:
    found = agreement([((1,), sample(-1.0, -1.5)), ((1, 2), sample(-0.75))], score)
    assert (found.max_gap, found.mean_gap, found.num_tokens) == (0.5, 0.25, 3)
    assert agreement([], score).mean_gap == 0.0


def test_a_gap_that_is_no_number_is_not_hidden() -> None:
    found = agreement([((1,), sample(-1.0, math.nan, -3.0))], score)
    assert math.isnan(found.max_gap) and found.num_tokens == 3


def test_a_probe_samples_each_prompt_once_by_a_seed() -> None:
    asked: list[Request] = []

    class Engine:
        def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
            asked.extend(requests)
            return [[sample(-1.25)] for _ in requests]

    engine: Any = Engine()
    found = probe(engine, score, [(1,), (2, 3)], max_tokens=4, seed=9)
    assert found.max_gap == 0.25 and found.num_tokens == 2
    assert [(r.prompt_ids, r.sampling.max_tokens, r.seed, r.n) for r in asked] == [
        ((1,), 4, 9, 1),
        ((2, 3), 4, 9, 1),
    ]
