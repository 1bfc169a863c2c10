"""What an environment itself says of an episode."""

from __future__ import annotations

from posttrain.rewards.environment import environment
from posttrain.types import Example, Sample, Trace, Turn


def trace(*rewards: float | None, whole: float | None = None) -> Trace:
    turns = [Turn((1,), Sample([2], [0.0], [0.0], "stop"), "", reward=r) for r in rewards]
    return Trace(turns, {} if whole is None else {"environment": whole})


def test_the_reward_of_the_whole_else_the_sum_of_steps() -> None:
    traces = [trace(1.0, 2.0), trace(1.0, 2.0, whole=0.5), trace(None, 0.25), trace(None)]
    assert environment(traces, [Example("")] * 4) == [3.0, 0.5, 0.25, 0.0]


def test_an_environment_without_rewards_gives_none() -> None:
    assert environment([trace(None), trace(None, None)], [Example("")] * 2) == [None, None]


def test_each_environment_of_a_step_is_asked_for_itself() -> None:
    rows = [Example("", columns={"environment": name}) for name in ("game", "game", "tools")]
    assert environment([trace(1.0), trace(None), trace(None)], rows) == [1.0, 0.0, None]
