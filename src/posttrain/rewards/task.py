"""The task's own verdict as a reward."""

from __future__ import annotations

from posttrain.registry import rewards
from posttrain.types import plain_text


@rewards.register
def task(completions, examples, task) -> list[float]:
    """The grade by the task: 1 for a right answer, 0 for a wrong one (some tasks give partial
    credit).
    """
    return [
        task.score(plain_text(c) if isinstance(c, str) else str(c[-1]["content"]), e)
        for c, e in zip(completions, examples, strict=True)
    ]
