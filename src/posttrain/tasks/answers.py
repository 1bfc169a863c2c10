"""What needs a gold answer, and what it says of rows that have none."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain import registry
from posttrain.config import Component
from posttrain.errors import DataError
from posttrain.types import Example, Task

_WAY_OUT = "Give every row an answer, or use rewards that read none"


def missing_answers(examples: Sequence[Example], column: str = "answer") -> str:
    """How many examples have no answer, in words; "" where all have one.

    >>> missing_answers([Example("a", answer="1"), Example("b", id="7")])
    "1 of 2 rows have no answer (column 'answer'; first: row 7)"
    """
    without = [e.id for e in examples if e.answer is None]
    if not without:
        return ""
    return (
        f"{len(without):,} of {len(examples):,} rows have no answer (column {column!r}; first: "
        f"row {without[0]})"
    )


def refuse_unscored(task: Task, purpose: str) -> None:
    """Refuse a task whose examples cannot be scored, where they have to be.

    Args:
        purpose: what needs the score, such as "an evaluation".
    Raises:
        DataError: rows have no answer; says how many.
    """
    if task.unscored:
        raise DataError(f"{purpose} needs a score, but in task {task.name!r} {task.unscored}")


def refuse_missing_answers(task: Task, rewards: Sequence[Component]) -> None:
    """Refuse rewards that cannot judge a task's examples, before anything is sampled.

    The reward "task" needs a task that can be scored. A reward that compares with the answer needs
    it in every row; a user's own reward that reads `answer` may handle rows without one, and needs
    it in one row at least.

    Raises:
        DataError: rows have no answer; says how many, and which reward needs it.
    """
    missing = missing_answers(task.examples)
    for reward in rewards:
        if reward.name == "task" and reward.function is None:
            refuse_unscored(task, "reward 'task'")
        if not missing or "answer" not in registry.rewards.entry_of(reward).inputs:
            continue
        function = reward.function or registry.rewards.get(reward.name)
        compares = hasattr(function, "known_answers")
        if compares or all(e.answer is None for e in task.examples):
            raise DataError(
                f"reward {reward.name!r} reads the answer, but in task {task.name!r} {missing}. "
                f"{_WAY_OUT}"
            )


def unscored_text(missing: str) -> str:
    """Why a task cannot score its examples, with the way out; "" where no answer is missing."""
    return f"{missing}. {_WAY_OUT}" if missing else ""
