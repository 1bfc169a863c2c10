"""How functions of users are called: within a time limit, on copies, with failures counted.

Rewards (`rewards.base.RewardSet`), evaluations and searches (`TaskGrader`) call through one object.
"""

from __future__ import annotations

import functools
import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from posttrain.errors import ConfigError, PosttrainError, RewardError
from posttrain.rewards.inputs import copied_example
from posttrain.rewards.time_limit import TimeLimitExceeded, call_within
from posttrain.rewards.values import described
from posttrain.types import Example, Task

Item = TypeVar("Item")
T = TypeVar("T")

MAX_TIMEOUTS = 3
"""Verdicts of an evaluation that may exceed the time limit; at the last of them it stops."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call gave no value."""

    reason: str
    timed_out: bool = False


class Grader:
    """Calls functions of users, and counts how often they fail.

    An exception (also SystemExit) and a call beyond the time limit are failures, which are values
    and not errors. Ctrl-C and errors of posttrain's own pass through.

    Args:
        max_failed: largest share of completions on which one reward may fail.
        timeout_seconds: time limit of a call; 0 = no limit.

    Attributes:
        failures: number of failed completions, by the name of what failed.
        first_traceback: of the first exception.

    Raises:
        ConfigError: a limit out of range.
    """

    def __init__(self, *, max_failed: float = 0.5, timeout_seconds: float = 600.0) -> None:
        if not 0 <= max_failed <= 1:
            raise ConfigError(
                f"max_failed_rewards: {max_failed} must be between 0 and 1, the largest share of "
                "completions on which a reward may fail"
            )
        if not 0 <= timeout_seconds < math.inf:
            raise ConfigError(
                f"reward_timeout_seconds: {timeout_seconds} must be 0 (no limit) or above"
            )
        self.max_failed = max_failed
        self.timeout_seconds = timeout_seconds
        self.failures: dict[str, int] = {}
        self.timeouts = 0
        self.first_traceback: str | None = None

    def count(self, name: str, failed: int) -> None:
        """Add failed completions to `failures`."""
        if failed:
            self.failures[name] = self.failures.get(name, 0) + failed

    def attempt(
        self, what: str, call: Callable[[], T], *, seconds: float | None = None
    ) -> T | Failure:
        """`call()`, or why it gave no value.

        Args:
            what: what runs, for notices, such as "reward 'judge'".
            seconds: time limit of this call; None = timeout_seconds.
        """
        limit = self.timeout_seconds if seconds is None else seconds
        try:
            return call_within(call, what=what, seconds=limit)
        except (KeyboardInterrupt, PosttrainError):
            raise
        except TimeLimitExceeded:
            return Failure(f"took longer than {self.timeout_seconds:g} s", timed_out=True)
        except BaseException as error:  # also SystemExit: a reward does not end a run
            return self._failure(error)

    def attempt_each(
        self, name: str, what: str, call: Callable[[Item], T], items: Sequence[Item]
    ) -> list[T | Failure]:
        """`call(item)` for each item, each with its own failure.

        The time limit is for all items together: a guarded call costs a thread. An item that
        exceeds it has failed, and those behind it are called again with a new limit.

        Raises:
            RewardError: MAX_TIMEOUTS calls have exceeded the time limit.
        """
        values: list[T | Failure] = []
        while len(values) < len(items):
            # The call may go on in an abandoned thread, so each attempt has a list of its own.
            finished: list[T | Failure] = []
            rest = items[len(values) :]
            outcome = self.attempt(what, functools.partial(self._call_each, call, rest, finished))
            values += finished[: len(rest)]
            if isinstance(outcome, Failure):
                values.append(outcome)
                self._count_timeout(what)
        self.count(name, sum(isinstance(value, Failure) for value in values))
        return values

    def _call_each(
        self, call: Callable[[Item], T], items: Sequence[Item], finished: list[T | Failure]
    ) -> None:
        for item in items:
            try:
                finished.append(call(item))
            except (KeyboardInterrupt, PosttrainError, TimeLimitExceeded):
                raise
            except BaseException as error:  # also SystemExit: a verdict does not end an evaluation
                finished.append(self._failure(error))

    def _failure(self, error: BaseException) -> Failure:
        if self.first_traceback is None:
            lines = traceback.format_exception(error, limit=-3)
            self.first_traceback = "".join(lines)
        return Failure(described(error))

    def _count_timeout(self, what: str) -> None:
        self.timeouts += 1
        if self.timeouts >= MAX_TIMEOUTS:
            raise RewardError(
                f"{what} took longer than {self.timeout_seconds:g} s on {self.timeouts} "
                "completions. Make it faster, give what it waits for a time limit of its own, or "
                "raise reward_timeout_seconds (0 = no limit)"
            )


class TaskGrader:
    """The verdicts of a task on completions of its examples.

    A verdict that fails is counted: the completion is then wrong, or has no answer. The task gets
    copies of its examples.

    Attributes:
        errors: number of failed verdicts.
    """

    def __init__(self, task: Task, grader: Grader | None = None) -> None:
        self.task = task
        self.grader = grader or Grader()
        self.errors = 0

    def grades(self, texts: Sequence[str], example: Example) -> list[float]:
        """The task's grade of each completion; 0 where the verdict failed."""

        def grade(text: str) -> float:
            return float(self.task.score(text, copied_example(example)))

        return [0.0 if isinstance(v, Failure) else v for v in self._verdicts(grade, texts)]

    def correct(self, texts: Sequence[str], example: Example) -> list[int]:
        """1 for each completion whose grade is at least 1, else 0."""
        return [int(grade >= 1.0) for grade in self.grades(texts, example)]

    def answers(self, texts: Sequence[str]) -> list[str | None]:
        """The canonical answer of each completion; None where there is none."""
        verdicts = self._verdicts(self.task.extract, texts)
        return [None if isinstance(v, Failure) else v for v in verdicts]

    def answer(self, text: str) -> str | None:
        """The canonical answer of one completion."""
        return self.answers([text])[0]

    def _verdicts(self, call: Callable[[str], T], texts: Sequence[str]) -> list[T | Failure]:
        name = f"task {self.task.name!r}"
        verdicts = self.grader.attempt_each(name, f"the verifier of {name}", call, texts)
        self.errors += sum(isinstance(v, Failure) for v in verdicts)
        return verdicts
