"""Chains of whole-number arithmetic, worked step by step."""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

from posttrain.errors import ConfigError
from posttrain.registry import tasks
from posttrain.types import Example, Task

_FINAL = re.compile(r"\s*(-?)(\d+)\s*")
_LINE = re.compile(r"(\d+)([+*-])(\d+)=(\d+)")
_MAX_DIGITS = 400  # int() refuses more than 4,300
_STEPS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}

Step = tuple[int, str, int, int]
"""Value before, operation, operand, value after."""


def draw_problem(
    draw: random.Random, num_steps: int, max_operand: int, max_value: int
) -> tuple[int, list[Step]]:
    """A start value and `num_steps` operations, applied from left to right, that never leave 0
    to `max_value`.
    """
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


def steps_of(example: Example) -> list[Step]:
    """The steps of the worked completion of an example."""
    lines = str(example.completion).strip().split("\n")[:-1]
    matches = [_LINE.fullmatch(line) for line in lines]
    return [(int(m[1]), m[2], int(m[3]), int(m[4])) for m in matches if m is not None]


def line_criterion(step: Step) -> str:
    """That a line of the solution is there, as a rubric says it."""
    before, operation, operand, after = step
    return f"It has the line {before}{operation}{operand}={after}."


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
    """1 if the text ends in "#### answer" with the right number, else 0. How it got there does
    not count.
    """
    return float(extract(completion) == example.answer)


Split = Literal["train", "validation", "test"]

# What results were reported on before there was a validation split: the first 300 test problems of
# these difficulties (num_steps, max_operand, max_value) and seeds. recipes/ evaluates on seed 1.
_REPORTED_DIFFICULTIES = ((5, 60, 249), (3, 60, 249), (3, 50, 199), (2, 20, 99))
_REPORTED_SEEDS = (0, 1)
_NUM_REPORTED = 300


def held_out(question: str) -> bool:
    """Whether a problem is kept for evaluation: a quarter of all problems, by a hash of their text.

    The train split leaves them out; the validation and test splits share them. The corpus of the
    embedded base model never asks one; those of one step occur in it as lines of worked solutions
    (see `tasks.pretraining`).
    """
    return _hash_byte(question) < 64


def split_of(question: str) -> Split:
    """The split of a problem, decided by its own text alone, so that no seed or setting can leak
    it.

    train: three quarters of all problems. validation: an eighth of the held-out problems (by a
    second hash), less those that results have been reported on. test: the other held-out problems.
    The validation split was added later; the exception keeps every reported test problem where it
    was.
    """
    if not held_out(question):
        return "train"
    if _hash_byte(question, b"validation") < 32 and question not in _reported():
        return "validation"
    return "test"


def _hash_byte(question: str, person: bytes = b"") -> int:
    return hashlib.blake2b(question.encode(), digest_size=1, person=person).digest()[0]


@functools.cache
def _reported() -> frozenset[str]:
    """The held-out problems of `_REPORTED_DIFFICULTIES` and `_REPORTED_SEEDS`."""
    questions: set[str] = set()
    for difficulty in _REPORTED_DIFFICULTIES:
        for seed in _REPORTED_SEEDS:
            drawn = _problems(*difficulty, "test", seed=seed, accept=held_out)
            questions |= {question_text(*next(drawn)) for _ in range(_NUM_REPORTED)}
    return frozenset(questions)


def _problems(
    num_steps: int,
    max_operand: int,
    max_value: int,
    split: Split,
    *,
    seed: int,
    accept: Callable[[str], bool],
) -> Iterator[tuple[int, list[Step]]]:
    """Different problems that `accept` takes, in a fixed order."""
    draw = random.Random(f"arithmetic {seed} {num_steps} {max_operand} {max_value} {split}")
    return distinct_problems(lambda: draw_problem(draw, num_steps, max_operand, max_value), accept)


def distinct_problems(
    draw: Callable[[], tuple[int, list[Step]]], accept: Callable[[str], bool]
) -> Iterator[tuple[int, list[Step]]]:
    """Problems that are drawn, each question once; ends where the next is too rare.

    accept: whether a question is wanted.
    """
    seen: set[str] = set()
    misses = 0  # in a row
    while misses <= 10_000:
        first, steps = draw()
        question = question_text(first, steps)
        if question in seen or not accept(question):
            misses += 1
            continue
        misses = 0
        seen.add(question)
        yield first, steps


@tasks.register
def arithmetic(
    *,
    num_examples: int = 1000,
    num_steps: int = 3,
    max_operand: int = 50,
    max_value: int = 199,
    split: Literal["train", "validation", "test"] = "train",
    rubric: bool = False,
    seed: int = 0,
) -> Task:
    """Chains of +, - and * on whole numbers, worked from left to right, one line a step.

    num_steps, max_operand and max_value (of every result on the way) set the difficulty. split:
    problems belong to train, validation or test by a hash of their text; tune settings on
    validation, report test. With num_steps 1 the splits are disjoint as problems, but each is a
    line of longer worked solutions: what was trained on those, such as the embedded model, has seen
    them, and its accuracy on them is no test. rubric: whether a row has criteria in its column
    "rubric", one for each line and one for the answer. Prompt "Q: 7+5*3\\nA:", completion "
    7+5=12\\n12*3=36\\n#### 36"; the score is 1 for the right number behind "####" at the end, else
    0.
    """
    if num_steps < 1 or max_operand < 2 or max_value < 9:
        raise ConfigError(
            f"arithmetic: num_steps {num_steps} must be at least 1, max_operand {max_operand} at "
            "least 2 and max_value "
            f"{max_value} at least 9"
        )
    problems = _problems(
        num_steps, max_operand, max_value, split, seed=seed, accept=lambda q: split_of(q) == split
    )
    examples = [
        _example(first, steps, f"arithmetic-{split}-{seed}-{number}", rubric=rubric)
        for number, (first, steps) in zip(range(num_examples), problems, strict=False)
    ]
    if len(examples) < num_examples:
        raise ConfigError(
            f"arithmetic: there are only {len(examples)} different problems with num_steps "
            f"{num_steps} and "
            f"max_operand {max_operand} and max_value {max_value} in split {split}; ask for fewer "
            "num_examples "
            "or raise the difficulty"
        )
    return Task("arithmetic", examples, score, extract, max_tokens=14 * num_steps + 14)


def _example(first: int, steps: list[Step], name: str, *, rubric: bool) -> Example:
    question = question_text(first, steps)
    columns: dict[str, Any] = {"question": question}
    if rubric:
        columns["rubric"] = [*map(line_criterion, steps), f"The answer is {steps[-1][3]}."]
    return Example(
        f"Q: {question}\nA:", f" {worked_text(first, steps)}", str(steps[-1][3]), columns, id=name
    )
