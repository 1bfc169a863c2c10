"""Sorting whole numbers."""

from __future__ import annotations

import random

from posttrain.errors import ConfigError
from posttrain.registry import tasks
from posttrain.types import Example, Task


def extract(completion: str) -> str | None:
    """The first line as numbers with single spaces; None if it holds anything else."""
    words = completion.strip().split("\n")[0].split()
    return " ".join(words) if words and all(w.isascii() and w.isdigit() for w in words) else None


def score(completion: str, example: Example) -> float:
    """1 if the first line is the sorted list, else 0."""
    return float(extract(completion) == example.answer)


@tasks.register
def sorting(
    *, num_examples: int = 1000, num_numbers: int = 5, max_number: int = 99, seed: int = 0
) -> Task:
    """Sort whole numbers upwards. num_numbers sets the difficulty.

    Prompt "sort: 31 4 15\\n", completion "4 15 31"; the score is 1 for the exact list, else 0.
    """
    if num_numbers < 2 or max_number < 1:
        raise ConfigError(
            f"sorting: num_numbers {num_numbers} must be at least 2 and max_number {max_number} "
            "at least 1"
        )
    draw = random.Random(f"sorting {seed} {num_numbers} {max_number}")
    examples = []
    for i in range(num_examples):
        numbers = [draw.randint(0, max_number) for _ in range(num_numbers)]
        answer = " ".join(map(str, sorted(numbers)))
        examples.append(
            Example(
                f"sort: {' '.join(map(str, numbers))}\n", answer, answer, id=f"sorting-{seed}-{i}"
            )
        )
    return Task("sorting", examples, score, extract, stop=("\n",), max_tokens=4 * num_numbers + 4)
