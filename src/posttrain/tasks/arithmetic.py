"""Chains of whole-number arithmetic, worked step by step."""

from __future__ import annotations

import hashlib
import random
import re
from typing import Literal

from posttrain.errors import ConfigError
from posttrain.registry import tasks
from posttrain.types import Example, Task

_FINAL = re.compile(r"\s*(-?)(\d+)\s*")
_MAX_DIGITS = 400  # int() refuses more than 4,300
_STEPS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}

Step = tuple[int, str, int, int]
"""Value before, operation, operand, value after."""


def draw_problem(draw: random.Random, num_steps: int, max_operand: int, max_value: int) -> tuple[int, list[Step]]:
    """A start value and `num_steps` operations, applied from left to right, that never leave 0 to `max_value`."""
    while True:
        first = value = draw.randint(1, max_operand)
        steps: list[Step] = []
        for _ in range(num_steps):
            operation = draw.choice("+-*")
            operand = draw.randint(2, 9) if operation == "*" else draw.randint(1, max_operand)
            after = _STEPS[operation](value, operand)
            if not 0 <= after <= max_value:
                break
            steps.append((value, operation, operand, after))
            value = after
        else:
            return first, steps


def question_text(first: int, steps: list[Step]) -> str:
    """The chain, such as "7+5*3": it is meant from left to right, without precedence."""
    return str(first) + "".join(f"{operation}{operand}" for _, operation, operand, _ in steps)


def worked_text(first: int, steps: list[Step]) -> str:
    """One line a step and the answer behind "####"."""
    lines = [f"{before}{operation}{operand}={after}" for before, operation, operand, after in steps]
    return "\n".join([*lines, f"#### {steps[-1][3] if steps else first}"])


def extract(completion: str) -> str | None:
    """The number behind the last "####", at the very end of the text; None where there is none."""
    _, mark, tail = completion.strip().rpartition("####")
    match = _FINAL.fullmatch(tail) if mark else None
    if match is None:
        return None
    sign, digits = match.groups()
    if len(digits) > _MAX_DIGITS:
        return sign + (digits.lstrip("0") or "0")
    return str(int(sign + digits))


def score(completion: str, example: Example) -> float:
    """1 if the text ends in "#### answer" with the right number, else 0. How it got there does not count."""
    return float(extract(completion) == example.answer)


def in_test_split(question: str) -> bool:
    """Whether a problem belongs to the test split: decided by its own text, so that no seed can leak it."""
    return hashlib.blake2b(question.encode(), digest_size=1).digest()[0] < 64


@tasks.register
def arithmetic(
    *,
    num_examples: int = 1000,
    num_steps: int = 3,
    max_operand: int = 50,
    max_value: int = 199,
    split: Literal["train", "test"] = "train",
    seed: int = 0,
) -> Task:
    """Chains of +, - and * on whole numbers, worked from left to right, one line a step.

    num_steps, max_operand and max_value (of every result on the way) set the difficulty. A quarter of all problems,
    chosen by a hash of their text, is the test split. Prompt "Q: 7+5*3\\nA:", completion " 7+5=12\\n12*3=36\\n#### 36";
    the score is 1 for the right number behind "####" at the end, else 0.
    """
    if num_steps < 1 or max_operand < 2 or max_value < 9:
        raise ConfigError(
            f"arithmetic: num_steps {num_steps} must be at least 1, max_operand {max_operand} at least 2 and max_value "
            f"{max_value} at least 9"
        )
    draw = random.Random(f"arithmetic {seed} {num_steps} {max_operand} {max_value} {split}")
    examples: list[Example] = []
    seen: set[str] = set()
    misses = 0
    while len(examples) < num_examples:
        first, steps = draw_problem(draw, num_steps, max_operand, max_value)
        question = question_text(first, steps)
        if question in seen or in_test_split(question) != (split == "test"):
            misses += 1
            if misses > 10_000:  # in a row: what is left to find, if anything, is too rare
                raise ConfigError(
                    f"arithmetic: there are only {len(examples)} different problems with num_steps {num_steps} and "
                    f"max_operand {max_operand} and max_value {max_value}; ask for fewer num_examples or raise the difficulty"
                )
            continue
        misses = 0
        seen.add(question)
        answer = str(steps[-1][3])
        examples.append(
            Example(
                f"Q: {question}\nA:",
                f" {worked_text(first, steps)}",
                answer,
                {"question": question},
                id=f"arithmetic-{split}-{seed}-{len(examples)}",
            )
        )
    return Task("arithmetic", examples, score, extract, max_tokens=14 * num_steps + 14)
