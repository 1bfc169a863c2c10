"""Game of 24: reach 24 with four numbers, each used once (Yao et al., arXiv 2305.10601)."""

from __future__ import annotations

import functools
import hashlib
import random
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal

from posttrain.data.rows import load_rows
from posttrain.errors import ConfigError, DataError
from posttrain.registry import tasks
from posttrain.tasks.countdown import evaluate, extract
from posttrain.types import Example, Task

TARGET = 24
NUM_NUMBERS = 4
_COLUMNS = ("Puzzles", "puzzles", "puzzle", "numbers")
_MAX_MISSES = 20_000  # draws in a row that give nothing new

Numbers = tuple[int, ...]


def score(completion: str, example: Example) -> float:
    """1 if the first line is an expression of value 24 that uses each given number exactly once,
    else 0.
    """
    expression = extract(completion)
    result = evaluate(expression) if expression is not None else None
    if result is None:
        return 0.0
    value, used = result
    return float(value == TARGET and Counter(used) == Counter(example.columns["numbers"]))


@functools.cache
def solution(numbers: Numbers) -> str | None:
    """An expression of value 24 that uses each number once; None where there is none.

    numbers: sorted. Two of the values are replaced by what an operation makes of them, until one
    is left.
    """
    return _solution(tuple((Fraction(n), str(n)) for n in numbers))


def _solution(values: tuple[tuple[Fraction, str], ...]) -> str | None:
    if len(values) == 1:
        value, text = values[0]
        return _unwrapped(text) if value == TARGET else None
    for i in range(len(values)):
        for j in range(len(values)):
            if i == j:
                continue
            rest = tuple(v for k, v in enumerate(values) if k not in (i, j))
            for made in _results(values[i], values[j], ordered=i < j):
                found = _solution((*rest, made))
                if found is not None:
                    return found
    return None


def _results(
    a: tuple[Fraction, str], b: tuple[Fraction, str], *, ordered: bool
) -> Iterator[tuple[Fraction, str]]:
    """What the operations make of two values. ordered: also those that commute."""
    (x, left), (y, right) = a, b
    if ordered:
        yield x + y, f"({left}+{right})"
        yield x * y, f"({left}*{right})"
    yield x - y, f"({left}-{right})"
    if y != 0:
        yield x / y, f"({left}/{right})"


def _unwrapped(text: str) -> str:
    return text[1:-1] if text.startswith("(") else text


def split_of(numbers: Numbers) -> Literal["train", "test"]:
    """The split of a problem, by a hash of its sorted numbers: a quarter of all is test. No order
    of the numbers, file or seed can leak a problem into the other split.
    """
    text = " ".join(map(str, sorted(numbers)))
    return "test" if hashlib.blake2b(text.encode(), digest_size=1).digest()[0] < 64 else "train"


@tasks.register
def game24(
    *,
    path: str | None = None,
    split: Literal["train", "test", "all"] = "train",
    num_examples: int | None = None,
    first_row: int = 0,
    max_number: int = 13,
    seed: int = 0,
    chat: bool = False,
    max_tokens: int = 48,
) -> Task:
    """Game of 24: combine four numbers with + - * / to 24, each used exactly once; any right
    expression counts, checked by exact rational arithmetic.

    Prompt "numbers: 4 5 6 10 target: 24\\n", completion "(10-4)*5-6".

    Args:
        path: a CSV or JSONL file with a column Puzzles or numbers ("4 5 6 10"), such as the one of
            Tree of Thoughts, whose rows 900 to 999 are that paper's test; None draws problems that
            have a solution.
        split: train and test are disjoint, by a hash of the sorted numbers; all takes both.
        num_examples: number of problems; None is all of a file, or 100 that are drawn.
        first_row: rows of the file that are skipped.
        max_number: largest number of problems that are drawn.
        seed: of the problems that are drawn.
        chat: prompts are messages with an instruction, for instruction-tuned models.
        max_tokens: tokens per completion, where the sampling does not say.
    """
    if num_examples is not None and num_examples < 1:
        raise ConfigError(f"game24: num_examples {num_examples} must be at least 1")
    if first_row < 0 or (first_row and path is None):
        raise ConfigError(
            f"game24: first_row {first_row} counts rows of a file; give path, and at least 0"
        )
    puzzles = _drawn(max_number, seed) if path is None else _read(path, first_row)
    wanted = 100 if num_examples is None and path is None else num_examples
    examples: list[Example] = []
    for numbers in puzzles:
        if wanted is not None and len(examples) >= wanted:
            break
        if split in ("all", split_of(numbers)):
            examples.append(_example(numbers, chat))
    if not examples or (path is None and wanted is not None and len(examples) < wanted):
        raise ConfigError(
            f"game24: only {len(examples)} problems in split {split!r} of "
            f"{path or f'numbers up to {max_number}'}; ask for fewer num_examples, a lower "
            "first_row, a larger max_number or split: all"
        )
    return Task("game24", examples, score, extract, stop=("\n",), max_tokens=max_tokens)


def _example(numbers: Numbers, chat: bool) -> Example:
    shown = " ".join(map(str, numbers))
    worked = solution(tuple(sorted(numbers)))
    prompt: Any = f"numbers: {shown} target: {TARGET}\n"
    completion: Any = worked
    if chat:
        asked = (
            f"Use each of the numbers {shown} exactly once with + - * / and parentheses to make "
            f"{TARGET}. Write the expression alone, on one line."
        )
        prompt = [{"role": "user", "content": asked}]
        completion = None if worked is None else [{"role": "assistant", "content": worked}]
    columns = {"numbers": list(numbers), "target": TARGET}
    name = f"game24-{'-'.join(map(str, numbers))}"
    return Example(prompt, completion, str(TARGET), columns, id=name)


def _drawn(max_number: int, seed: int) -> Iterator[Numbers]:
    """Different problems that have a solution, in a fixed order."""
    if max_number < 4:
        raise ConfigError(f"game24: max_number {max_number} must be at least 4")
    draw = random.Random(f"game24 {seed} {max_number}")
    seen: set[Numbers] = set()
    misses = 0
    while misses < _MAX_MISSES:
        numbers = tuple(draw.randint(1, max_number) for _ in range(NUM_NUMBERS))
        name = tuple(sorted(numbers))
        misses += 1
        if name in seen:
            continue
        seen.add(name)
        if solution(name) is not None:
            misses = 0
            yield numbers


def _read(path: str, first_row: int) -> Iterator[Numbers]:
    """The problems of a file's rows, in order."""
    for place, row in enumerate(load_rows(path)):
        if place < first_row:
            continue
        cell = next((row[name] for name in _COLUMNS if row.get(name) is not None), None)
        words = cell if isinstance(cell, list) else str(cell).split()
        try:
            numbers = tuple(int(word) for word in words)
        except (ValueError, TypeError):
            numbers = ()
        if len(numbers) != NUM_NUMBERS or min(numbers) < 0:
            raise DataError(
                f"{path}: row {place} is no Game of 24: it needs {NUM_NUMBERS} whole numbers in a "
                f"column {' or '.join(_COLUMNS)}, and has {cell!r}"
            )
        yield numbers
