"""Calls of users' functions: failures are values, copies protect, time limits hold."""

from __future__ import annotations

import time
from typing import Any

import pytest

from posttrain.errors import ConfigError, DataError, RewardError
from posttrain.rewards.grader import MAX_TIMEOUTS, Failure, Grader, TaskGrader
from posttrain.types import Example, Task


def test_a_failure_is_a_value_and_is_counted() -> None:
    grader = Grader()

    def parse(text: str) -> int:
        if text == "leave":
            raise SystemExit(0)
        return int(text)

    values = grader.attempt_each("parse", "parse", parse, ["1", "x", "leave", "4"])
    assert [v for v in values if not isinstance(v, Failure)] == [1, 4]
    reasons = [v.reason for v in values if isinstance(v, Failure)]
    assert reasons[0].startswith("ValueError") and reasons[1].startswith("SystemExit")
    assert grader.failures == {"parse": 2}
    assert grader.first_traceback is not None and "ValueError" in grader.first_traceback


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError("mine")])
def test_ctrl_c_and_own_errors_pass_through(error: Any) -> None:
    def stop(item: int) -> int:
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        Grader().attempt_each("stop", "stop", stop, [1])


def test_the_items_behind_one_that_hangs_are_called() -> None:
    calls: list[int] = []

    def slow(item: int) -> int:
        calls.append(item)
        if item == 1:
            time.sleep(60)
        return item

    grader = Grader(timeout_seconds=0.2)
    values = grader.attempt_each("slow", "slow", slow, [0, 1, 2, 3])
    assert calls == [0, 1, 2, 3] and [values[i] for i in (0, 2, 3)] == [0, 2, 3]
    assert isinstance(values[1], Failure) and values[1].timed_out
    with pytest.raises(RewardError, match="slow took longer than 0.2 s"):
        grader.attempt_each("slow", "slow", slow, [1] * MAX_TIMEOUTS)


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"max_failed": 1.5}, "max_failed_rewards"), ({"timeout_seconds": -1}, "reward_timeout")],
)
def test_limits_out_of_range(settings: dict[str, float], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        Grader(**settings)


def test_a_task_gets_copies_of_its_examples() -> None:
    example = Example("p", None, "1", {"tests": [1]}, id="e")

    def vandal(text: str, e: Example) -> float:
        e.columns["tests"].append(2)
        return float(len(e.columns["tests"]) == 2)

    verdicts = TaskGrader(Task("t", [example], vandal, lambda text: text or None))
    assert verdicts.correct(["a", "b"], example) == [1, 1] and example.columns["tests"] == [1]
    assert verdicts.answers(["a", ""]) == ["a", None] and verdicts.errors == 0
