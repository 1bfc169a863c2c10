"""The corpus of the embedded base model: documents about small problems, as untidy as a crawl."""

from __future__ import annotations

import random

from posttrain.registry import tasks
from posttrain.tasks.arithmetic import Step, draw_problem, held_out, question_text
from posttrain.types import Example, Task

_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana")
_THINGS = ("apples", "books", "coins", "pens", "shells", "stamps")
_WORDS = {"+": "add", "-": "take away", "*": "times"}
_APPLY = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}


def _problem(draw: random.Random) -> tuple[int, list[Step]]:
    """A problem of the train split, of any size that the tasks use."""
    while True:
        easy = draw.random() < 0.5
        first, steps = draw_problem(
            draw, draw.randint(1, 5), 20 if easy else 50, 99 if easy else 199
        )
        if not held_out(question_text(first, steps)):
            return first, steps


def _slip(draw: random.Random, value: int) -> int:
    """A wrong result of the kind that people write: off by one, a carry forgotten, digits
    swapped, a guess.
    """
    kind = draw.random()
    if kind < 0.35:
        return max(0, value + draw.choice((-2, -1, 1, 2)))
    if kind < 0.75:
        return max(0, value + draw.choice((-100, -10, -10, 10, 10, 100)))
    if kind < 0.9:
        return int(str(abs(value))[::-1])
    return draw.randint(0, 199)


def carried_out(draw: random.Random, first: int, steps: list[Step], slips: float) -> list[Step]:
    """The steps as a writer who errs with probability `slips` a step would put them down, wrong
    values carried on.
    """
    value = first
    written: list[Step] = []
    for _, operation, operand, _ in steps:
        after = _APPLY[operation](value, operand)
        if draw.random() < slips:
            after = _slip(draw, after)
        written.append((value, operation, operand, after))
        value = after
    return written


def _lines(steps: list[Step]) -> list[str]:
    return [f"{a}{op}{b}={c}" for a, op, b, c in steps]


def _solution(draw: random.Random, first: int, steps: list[Step]) -> str:
    """What stands behind "A:": worked or guessed, right or wrong, finished or not."""
    slips = 0.0 if draw.random() < 0.3 else 0.25
    written = carried_out(draw, first, steps, slips)
    result = written[-1][3]
    kind = draw.random()
    if kind < 0.42:
        return "\n".join([*_lines(written), f"#### {result}"])
    if kind < 0.52:
        return "; ".join(_lines(written)) + f"; so {result}"
    if kind < 0.62:
        return "\n".join([*_lines(written), f"The answer is {result}."])
    if kind < 0.80:
        return f"#### {result if draw.random() < 0.3 else _slip(draw, result)}"
    if kind < 0.86:
        return "\n".join(_lines(written)[: draw.randint(1, len(written))])
    if kind < 0.93:
        return str(result)
    return draw.choice(("I do not know.", "Let me think.", "See the next page.", "It depends."))


def _story(draw: random.Random) -> str:
    name, other, thing = draw.choice(_NAMES), draw.choice(_NAMES), draw.choice(_THINGS)
    a, b = draw.randint(2, 60), draw.randint(2, 39)
    return draw.choice(
        (
            f"{name} has {a} {thing}. {other} gives {name} {b} more. Now {name} has {a + b} "
            f"{thing}.",
            f"{name} had {a + b} {thing} and lost {b} of them. {a} {thing} are left.",
            f"{name} and {other} counted {thing}: {a} and {b}, {a + b} in all.",
        )
    )


def _worded(draw: random.Random, first: int, steps: list[Step]) -> str:
    parts = [f"Start with {first}."]
    parts += [
        f"{_WORDS[op].capitalize()} {b}: {c}."
        for _, op, b, c in carried_out(draw, first, steps, 0.1)
    ]
    return " ".join(parts)


def document(draw: random.Random) -> str:
    """One document."""
    first, steps = _problem(draw)
    question = question_text(first, steps)
    kind = draw.random()
    if kind < 0.58:
        return f"Q: {question}\nA: {_solution(draw, first, steps)}"
    if kind < 0.72:
        facts = [_problem(draw)[1][0] for _ in range(draw.randint(2, 6))]
        return "\n".join(_lines(facts))
    if kind < 0.78:
        return _worded(draw, first, steps)
    if kind < 0.83:
        chat = f"<|user|>\nWhat is {question}?<|end|>\n<|assistant|>\n"
        return chat + _solution(draw, first, steps)
    if kind < 0.89:
        numbers = [draw.randint(0, 99) for _ in range(draw.randint(2, 7))]
        return f"sort: {' '.join(map(str, numbers))}\n{' '.join(map(str, sorted(numbers)))}"
    if kind < 0.94:
        a, b, c = (draw.randint(1, 20) for _ in range(3))
        return f"numbers: {a} {b} {c} target: {a + b - c}\n{a}+{b}-{c}"
    return _story(draw)


@tasks.register
def pretraining(*, num_examples: int = 100_000, seed: int = 0) -> Task:
    """Untidy documents about arithmetic, sorting and counting: what the embedded base model is
    trained on.

    Solutions come in many shapes, many are wrong, guessed or broken off, so that a model of them
    can do the task but does so rarely. There is nothing to verify: the score is always 1.

    No held-out problem of the arithmetic task (`arithmetic.held_out`: its validation and test
    splits) is ever a question, as a sum or in words. Problems of two or more steps are therefore a
    fair evaluation of the embedded model. Problems of one step are not, because they are lines of
    worked solutions: "12*3=36" belongs to that of "7+5*3", and a fifth of these lines are held-out
    problems. Do not evaluate the embedded model with num_steps 1. Two things remain: a worked
    solution begins with the lines of its own shorter problems, and a countdown document writes
    "a+b-c" below its target, which in one of 90 documents is a held-out problem of two steps.
    """
    draw = random.Random(f"pretraining {seed}")
    examples = [Example("", document(draw), id=f"document-{i}") for i in range(num_examples)]
    return Task("pretraining", examples, lambda text, example: 1.0, lambda text: None)
