"""Countdown: reach a target with given numbers and the four operations."""

from __future__ import annotations

import ast
import random
from collections import Counter
from fractions import Fraction

from posttrain.errors import ConfigError
from posttrain.registry import tasks
from posttrain.types import Example, Task

_MAX_LENGTH = 200
_LETTERS = frozenset("0123456789+-*/() \t\r\f")


def evaluate(expression: str) -> tuple[Fraction, list[int]] | None:
    """The exact value of an expression of whole numbers, + - * / and parentheses, and the numbers
    it uses.

    None for anything else: other operators, names, division by zero, text that is too long.
    """
    if len(expression) > _MAX_LENGTH or not _LETTERS.issuperset(expression):
        return None
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        numbers: list[int] = []
        return _value(tree.body, numbers), numbers
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr, numbers: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        numbers.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, numbers), _value(node.right, numbers)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.Div):
            return left / right
    raise ValueError("not an expression of numbers")


def extract(completion: str) -> str | None:
    """The first line, without an "= target" behind it; None if it is no expression."""
    line = completion.strip().split("\n")[0].split("=")[0].strip()
    return line if line and evaluate(line) is not None else None


def score(completion: str, example: Example) -> float:
    """1 if the expression reaches the target with the given numbers, each used at most as often
    as given, else 0.
    """
    expression = extract(completion)
    result = evaluate(expression) if expression is not None else None
    if result is None:
        return 0.0
    value, used = result
    spare = Counter(example.columns["numbers"])
    spare.subtract(used)
    return float(value == example.columns["target"] and min(spare.values(), default=0) >= 0)


@tasks.register
def countdown(
    *, num_examples: int = 1000, num_numbers: int = 3, max_number: int = 20, seed: int = 0
) -> Task:
    """Combine given numbers with + - * / to reach a target; any right expression counts.

    num_numbers and max_number set the difficulty. Prompt "numbers: 3 7 12 target: 9\\n", completion
    "12-3*7/7" or so; checked by exact rational arithmetic, numbers that were not given are refused.
    """
    if not 2 <= num_numbers <= 6 or max_number < 2:
        raise ConfigError(
            f"countdown: num_numbers {num_numbers} must be 2 to 6 and max_number {max_number} at "
            "least 2"
        )
    draw = random.Random(f"countdown {seed} {num_numbers} {max_number}")
    examples: list[Example] = []
    while len(examples) < num_examples:
        numbers = [draw.randint(1, max_number) for _ in range(num_numbers)]
        expression = str(numbers[0])
        for n in draw.sample(numbers[1:], len(numbers) - 1):
            expression = (
                f"{expression}{draw.choice('+-')}{n}"
                if draw.random() < 0.7
                else f"({expression})*{n}"
            )
        result = evaluate(expression)
        if result is None or not 0 < result[0] < 1000:
            continue
        target = int(result[0])
        shown = " ".join(map(str, numbers))
        columns = {"numbers": numbers, "target": target}
        name = f"countdown-{seed}-{len(examples)}"
        examples.append(
            Example(
                f"numbers: {shown} target: {target}\n", expression, str(target), columns, id=name
            )
        )
    return Task("countdown", examples, score, extract, stop=("\n",), max_tokens=12 * num_numbers)
