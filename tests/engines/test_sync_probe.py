"""The comparison after an update: what it lets pass, and what stops a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from posttrain.engines.sync_probe import SyncProbe
from posttrain.errors import WeightSyncError
from posttrain.types import Sample


class Engine:
    """Samples the same ids of each prompt. gap: of its log-probs from -1."""

    def __init__(self, gap: float = 0.0, version: int = 1) -> None:
        self.gap, self.version = gap, version
        self.prompts: list[Any] = []

    def generate(self, requests: Sequence[Any]) -> list[list[Sample]]:
        self.prompts = [request.prompt_ids for request in requests]
        logprobs = [-1.0 + self.gap] * 2
        return [
            [Sample([1, 2], logprobs, logprobs, "length", weights_version=self.version)]
            for _ in requests
        ]

    def score(self, sequences: Any) -> list[list[float]]:
        return [[-1.0 + self.gap] * (len(ids) - start) for ids, start in sequences]


def probe(bound: float = 1e-4) -> SyncProbe:
    score = lambda sequences: [[-1.0] * (len(ids) - s) for ids, s in sequences]  # noqa: E731
    return SyncProbe(score, max_gap=bound, vocab_size=50)


def test_equal_log_probs_pass_and_the_gap_is_given() -> None:
    engine: Any = Engine(gap=5e-5)
    result = probe().compare(engine, 1)
    assert result.mean_gap == pytest.approx(5e-5) and result.num_tokens == 8
    assert all(0 <= i < 50 for prompt in engine.prompts for i in prompt)


def test_prompts_differ_between_versions_and_repeat_with_the_run() -> None:
    engine: Any = Engine()
    probe().compare(engine, 1)
    first = engine.prompts
    probe().compare(engine, 1)
    assert engine.prompts == first
    engine.version = 2
    probe().compare(engine, 2)
    assert engine.prompts != first


@pytest.mark.parametrize("gap", [2e-4, 0.5, math.nan])
def test_a_gap_above_the_bound_stops_the_run(gap: float) -> None:
    engine: Any = Engine(gap=gap)
    with pytest.raises(WeightSyncError) as caught:
        probe().compare(engine, 1)
    assert caught.value.bound == 1e-4
    assert math.isnan(gap) or caught.value.gap == pytest.approx(gap)


def test_a_wider_bound_lets_it_pass() -> None:
    engine: Any = Engine(gap=2e-4)
    probe(1e-3).compare(engine, 1)


def test_a_server_that_samples_with_another_version_stops_the_run() -> None:
    engine: Any = Engine(version=0)
    with pytest.raises(WeightSyncError):
        probe().compare(engine, 1)


def test_a_server_that_comes_back_is_compared_with_what_the_trainer_said() -> None:
    comparison, engine = probe(), Engine()
    comparison.compare(engine, 1)  # type: ignore[arg-type]
    assert comparison.version == 1
    back: Any = Engine(gap=5e-5)
    assert comparison.compare_again(back, 1).num_tokens == 8
    back.gap = 0.5
    with pytest.raises(WeightSyncError):
        comparison.compare_again(back, 1)
