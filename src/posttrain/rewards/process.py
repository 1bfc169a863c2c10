"""Rewards for the steps of a completion: one number a line that is not blank."""

from __future__ import annotations

import re

from posttrain.registry import rewards

_STEP = re.compile(r"\s*(-?\d+)\s*([+*-])\s*(-?\d+)\s*=\s*(-?\d+)\s*")
_OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


_MAX_LENGTH = 1000  # of a line; int() refuses more than 4,300 digits


def _right(line: str) -> float:
    match = _STEP.fullmatch(line) if len(line) <= _MAX_LENGTH else None
    if match is None:
        return 0.0
    return float(_OPERATIONS[match[2]](int(match[1]), int(match[3])) == int(match[4]))


@rewards.register(per="step")
def arithmetic_steps(completions, task, examples) -> list[list[float]]:
    """Of a chain of arithmetic, a verified reward for each line: 1 for a line "a+b=c" that is
    right, else 0.

    The last line is judged by the task instead: 1 for the right answer. It shows what a process
    reward model does, exactly.
    """
    out = []
    for completion, example in zip(completions, examples, strict=True):
        text = completion if isinstance(completion, str) else str(completion[-1]["content"])
        lines = [line for line in text.splitlines() if line.strip()]
        out.append([*map(_right, lines[:-1]), task.score(text, example)] if lines else [])
    return out
