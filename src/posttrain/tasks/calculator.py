"""Chains of arithmetic too large for a small model's head, which a calculator solves."""

from __future__ import annotations

import hashlib
import random
from typing import Any, Literal

from posttrain.errors import ConfigError
from posttrain.registry import tasks
from posttrain.tasks.arithmetic import (
    Step,
    distinct_problems,
    extract,
    question_text,
    score,
    worked_text,
)
from posttrain.types import Example, Message, Task

Split = Literal["train", "validation", "test"]

_OPERATIONS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}

CALCULATE: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "calculate",
        "description": "Apply one operation to two whole numbers.",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {"type": "integer", "description": "The first number."},
                "operator": {
                    "type": "string",
                    "enum": ["+", "-", "*"],
                    "description": "The operation.",
                },
                "b": {"type": "integer", "description": "The second number."},
            },
            "required": ["a", "operator", "b"],
        },
    },
}
"""The schema of `Calculator.calculate`."""


class Calculator:
    """An environment with one tool.

    >>> Calculator().calculate(347, "*", 28)
    9716
    """

    def reset(self, **row: Any) -> None:
        """Begin an episode. The example's own prompt is all that the model is told."""

    def calculate(self, a: int, operator: str, b: int) -> int:
        """Apply one operation to two whole numbers.

        Args:
            a: The first number.
            operator: The operation: +, - or *.
            b: The second number.
        """
        if operator not in _OPERATIONS:
            raise ValueError(f"operator {operator!r} is none of +, - and *")
        return _OPERATIONS[operator](a, b)


def draw_chain(
    draw: random.Random, num_steps: int, max_operand: int, max_value: int
) -> tuple[int, list[Step]]:
    """A start value and operations whose results stay from 0 to `max_value`; one is a product."""
    while True:
        first = value = draw.randint(2, max_operand)
        product = draw.randrange(num_steps)
        steps: list[Step] = []
        for number in range(num_steps):
            operation = "*" if number == product else draw.choice("+-")
            operand = draw.randint(2, 99 if operation == "*" else max_operand)
            after = _OPERATIONS[operation](value, operand)
            if not 0 <= after <= max_value:
                break
            steps.append((value, operation, operand, after))
            value = after
        else:
            return first, steps


def split_of(question: str) -> Split:
    """The split of a problem by a hash of its text: 3/4 train, 1/8 validation, 1/8 test."""
    byte = hashlib.blake2b(question.encode(), digest_size=1, person=b"calculator").digest()[0]
    return "test" if byte < 32 else "validation" if byte < 64 else "train"


def asked(question: str) -> list[Message]:
    """The problem as a user writes it."""
    return [{"role": "user", "content": f"What is {question}?"}]


def tool_conversation(steps: list[Step]) -> list[Message]:
    """The turns behind the question: a call for each step, its result, and the answer."""
    messages: list[Message] = []
    for before, operation, operand, after in steps:
        arguments = {"a": before, "operator": operation, "b": operand}
        call = {"type": "function", "function": {"name": "calculate", "arguments": arguments}}
        messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        messages.append({"role": "tool", "name": "calculate", "content": str(after)})
    return [*messages, {"role": "assistant", "content": f"#### {steps[-1][3]}"}]


def direct_answer(first: int, steps: list[Step]) -> list[Message]:
    """One turn that works the steps out without a tool."""
    return [{"role": "assistant", "content": worked_text(first, steps)}]


@tasks.register
def calculator(
    *,
    num_examples: int = 1000,
    num_steps: int = 2,
    max_operand: int = 999,
    max_value: int = 99_999,
    split: Literal["train", "validation", "test"] = "train",
    seed: int = 0,
) -> Task:
    """Chains of whole-number arithmetic with one product of large numbers, as a conversation.

    The prompt is a user's message, "What is 347*28+951?"; steps are applied from left to right. A
    worked completion calls the tool `calculate(a, operator, b)` for each step and ends with
    "#### 10667". The score is 1 for the right number behind "####" at the end of the last turn,
    else 0. Without the tool a model has to multiply in its head.

    Args:
        num_steps: operations of a problem. max_operand: of + and -; a factor is at most 99.
        max_value: of every result on the way.
        split: problems belong to train, validation or test by a hash of their text.
    """
    if num_steps < 1 or max_operand < 2 or max_value < 200:
        raise ConfigError(
            f"calculator: num_steps {num_steps} must be at least 1, max_operand {max_operand} at "
            f"least 2 and max_value {max_value} at least 200"
        )
    draw = random.Random(f"calculator {seed} {num_steps} {max_operand} {max_value} {split}")
    problems = distinct_problems(
        lambda: draw_chain(draw, num_steps, max_operand, max_value),
        lambda question: split_of(question) == split,
    )
    examples = [
        _example(first, steps, f"calculator-{split}-{seed}-{number}")
        for number, (first, steps) in zip(range(num_examples), problems, strict=False)
    ]
    if len(examples) < num_examples:
        raise ConfigError(
            f"calculator: there are only {len(examples)} different problems of this "
            f"difficulty in split {split}; ask for fewer num_examples or raise max_operand"
        )
    return Task("calculator", examples, score, extract, max_tokens=96)


def _example(first: int, steps: list[Step], name: str) -> Example:
    question = question_text(first, steps)
    return Example(
        asked(question),
        tool_conversation(steps),
        str(steps[-1][3]),
        {"question": question, "tools": [CALCULATE]},
        id=name,
    )
