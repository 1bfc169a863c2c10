"""Rollouts of a step, collected with their metrics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.sources.collect import Collector, Prompt, episode_metrics
from posttrain.types import Example, Sample, Sampling, ToolCall, Trace, TraceGroup, Turn


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
    rewards: Any = SimpleNamespace(names=["r", "s"], take_spread=dict)
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


def test_metrics_of_episodes() -> None:
    """Of three episodes one failed before its first turn, and one got an error from a reward."""
    sample = Sample([3], [0.0], [0.0], "stop")
    calls = [ToolCall("add", {}, "3"), ToolCall("add", {}, error="no")]
    turns = [Turn((1,), sample, "", tool_calls=calls), Turn((1, 3), sample, "")]
    traces = [
        Trace(turns, {"r": 1.0}, 1.0, stop_reason="max_turns", metrics={"score": 4.0}),
        Trace(turns[:1], {"r": None}, error="r: ValueError", metrics={"score": 2.0}),
        Trace([], error="reset: KeyError"),
    ]
    shown = episode_metrics(traces).means()
    assert shown["episodes/num_turns"] == 1.0
    assert shown["episodes/failed"] == pytest.approx(1 / 3)
    assert shown["tools/call_frequency"] == pytest.approx(4 / 3)
    assert shown["tools/failure_frequency"] == 0.5
    assert shown["episodes/stop/max_turns"] == pytest.approx(1 / 3)
    assert shown["episodes/score"] == 3.0
    rewards: Any = SimpleNamespace(names=["r"], take_spread=dict)
    prompts = [Prompt(Example(""), (1,))]
    collector = Collector(
        prompts,
        None,  # type: ignore[arg-type]
        rewards,
        decode=str,
        sampling=Sampling(),
        batch_size=1,
        num_generations=3,
        seed=0,
    )
    shown = collector.metrics([TraceGroup(Example(""), (1,), traces)], 0).means()
    assert shown["rewards/errors"] == 1.0 and shown["reward"] == 1.0


def test_the_spread_of_several_models_is_a_metric() -> None:
    rewards: Any = SimpleNamespace(names=[], take_spread=lambda: {"judge": (1.5, 3)})
    traces = [Trace.of_text("a"), Trace.of_text("b")]
    for trace in traces:
        trace.reward = 1.0
    groups = [TraceGroup(Example("p"), (1,), traces)]
    collector = Collector(
        [Prompt(Example("p"), (1,))],
        None,  # type: ignore[arg-type]
        rewards,
        decode=str,
        sampling=Sampling(),
        batch_size=1,
        num_generations=2,
        seed=0,
    )
    assert collector.metrics(groups, 0).means()["rewards/judge/uncertainty"] == 0.5
