"""Rollouts of a step, collected with their metrics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.sources.collect import Collector, Prompt
from posttrain.types import Example, Sample, Sampling, Trace, TraceGroup


def test_deviations_are_over_all_completions_of_the_step() -> None:
    """Rewards 0, 1 of one prompt and 3, none of another: mean 4/3, squares 16/9 + 1/9 + 25/9
    over 2; one number has none.
    """

    def trace(reward: float | None, other: float | None) -> Trace:
        return Trace.of_sample(
            (1,), Sample([3], [0.0], [0.0], "stop"), "", {"r": reward, "s": other}, reward
        )

    rows = [[(0.0, None), (1.0, 5.0)], [(3.0, None), (None, None)]]
    groups = [TraceGroup(Example(""), (1,), [trace(*x) for x in row]) for row in rows]
    rewards: Any = SimpleNamespace(names=["r", "s"])
    collector = Collector(
        [Prompt(Example(""), (1,))],
        None,
        rewards,
        decode=str,
        sampling=Sampling(),
        batch_size=1,
        num_generations=2,
        seed=0,  # type: ignore[arg-type]
    )
    told = collector.metrics(groups, 0).means()
    assert told["reward"] == pytest.approx(4 / 3)
    assert told["reward_std"] == told["rewards/r/std"] == pytest.approx((21 / 9) ** 0.5)
    assert told["rewards/s/mean"] == 5.0 and "rewards/s/std" not in told
    assert told["frac_reward_zero_std"] == 0.0
