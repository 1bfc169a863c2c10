"""Made judgements, critiques and revisions of made solutions, for models too small to judge."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from posttrain.errors import ConfigError
from posttrain.registry import tasks
from posttrain.rewards.judge_questions import (
    INSTRUCTION,
    VERDICT,
    as_prompt,
    as_reply,
    criterion_question,
    critique_prompt,
    pair_question,
    rating_question,
    reasoned_question,
    revision_prompt,
)
from posttrain.tasks.arithmetic import (
    Step,
    draw_problem,
    line_criterion,
    question_text,
    split_of,
    worked_text,
)
from posttrain.tasks.pretraining import carried_out
from posttrain.types import Example, Task, Text

Kind = Literal["comparison", "rating", "criterion", "verdict", "critique", "revision", "reflection"]

CORRECT = "Every line is right."
COMPLETE = "It ends in #### and the answer."
PRINCIPLES = (CORRECT, COMPLETE)
"""A constitution that the made critiques know how to apply."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A problem and a solution of it that may have slips.

    Attributes:
        first, steps: the problem and its right steps.
        written: the steps as they were written down, wrong values carried on.
        ended: whether the answer stands behind "####".
    """

    first: int
    steps: list[Step]
    written: list[Step]
    ended: bool = True

    @property
    def prompt(self) -> str:
        """The problem as task arithmetic asks it."""
        return f"Q: {question_text(self.first, self.steps)}\nA:"

    @property
    def lines(self) -> list[str]:
        """The written lines."""
        return [f"{before}{op}{n}={after}" for before, op, n, after in self.written]

    @property
    def text(self) -> str:
        """The solution as it was written."""
        last = [f"#### {self.written[-1][3]}"] if self.ended else []
        return " " + "\n".join([*self.lines, *last])

    @property
    def wrong(self) -> int | None:
        """The place of the first wrong line; None where all are right."""
        places = (i for i, step in enumerate(self.written) if not _is_right(step))
        return next(places, None)

    @property
    def is_right(self) -> bool:
        """Whether the solution ends in the right answer."""
        return self.ended and self.written[-1][3] == self.steps[-1][3]

    @property
    def solution(self) -> str:
        """The right solution."""
        return f" {worked_text(self.first, self.steps)}"


_RESULT: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def _is_right(step: Step) -> bool:
    before, operation, operand, after = step
    return _RESULT[operation](before, operand) == after


def _mended(step: Step) -> str:
    before, operation, operand, _ = step
    return f"{before}{operation}{operand}={_RESULT[operation](before, operand)}"


class _Drawn:
    """Draws attempts at problems of a split."""

    def __init__(
        self,
        num_steps: int,
        max_operand: int,
        max_value: int,
        slips: float,
        split: str,
        seed: int,
    ) -> None:
        self.size = num_steps, max_operand, max_value
        self.slips, self.split = slips, split
        self.draw = random.Random(f"reviews {seed} {self.size} {slips} {split}")

    def attempt(self, *, slips: float | None = None, ends: bool = False) -> Attempt:
        """A problem and what a writer who errs makes of it. ends: whether it surely ends."""
        while True:
            first, steps = draw_problem(self.draw, *self.size)
            if split_of(question_text(first, steps)) == self.split:
                break
        written = carried_out(self.draw, first, steps, self.slips if slips is None else slips)
        return Attempt(first, steps, written, ends or self.draw.random() < 0.8)

    def pair(self) -> tuple[Attempt, Attempt]:
        """A right solution of a problem and a wrong one."""
        while (wrong := self.attempt(slips=max(self.slips, 0.5))).is_right:
            pass
        right = Attempt(wrong.first, wrong.steps, wrong.steps)
        return right, wrong


def _comparison(drawn: _Drawn, instruction: str, levels: int) -> tuple[Text, str]:
    right, wrong = drawn.pair()
    is_first = drawn.draw.random() < 0.5
    first, second = (right, wrong) if is_first else (wrong, right)
    question = pair_question(right.prompt, first.text, second.text, instruction)
    return as_prompt(question, chat=False), "A" if is_first else "B"


def _rating(drawn: _Drawn, instruction: str, levels: int) -> tuple[Text, str]:
    """The share of right lines, the last of which is the answer, as a level."""
    a = drawn.attempt() if drawn.draw.random() < 0.7 else drawn.attempt(slips=0.0, ends=True)
    right = sum(map(_is_right, a.written)) + a.is_right
    level = 1 + round((levels - 1) * right / (len(a.written) + 1))
    question = rating_question(a.prompt, a.text, levels, instruction)
    return as_prompt(question, chat=False), str(level)


def _criterion(drawn: _Drawn, instruction: str, levels: int) -> tuple[Text, str]:
    a = drawn.attempt()
    criteria = [line_criterion(step) for step in a.steps]
    meets = [line in a.lines for line in (_mended(step) for step in a.steps)]
    criteria.append(f"The answer is {a.steps[-1][3]}.")
    meets.append(a.is_right)
    place = drawn.draw.randrange(len(criteria))
    question = criterion_question(a.prompt, a.text, criteria[place], instruction)
    return as_prompt(question, chat=False), "yes" if meets[place] else "no"


def _verdict(drawn: _Drawn, instruction: str, levels: int) -> tuple[Text, str]:
    """A check of each line up to the first wrong one, then the verdict."""
    a = drawn.attempt() if drawn.draw.random() < 0.5 else drawn.attempt(slips=0.0)
    checks = []
    for step, line in zip(a.written, a.lines, strict=True):
        checks.append(f"{line} ok" if _is_right(step) else f"{line} wrong, {_mended(step)}")
        if not _is_right(step):
            break
    if a.wrong is None and not a.ended:
        checks.append("no answer")
    said = "yes" if a.is_right and a.wrong is None else "no"
    question = reasoned_question(a.prompt, a.text, instruction)
    return as_prompt(question, chat=False), "\n".join([*checks, f"{VERDICT} {said}"])


def _critique_of(a: Attempt, principle: str) -> str:
    """What a principle of the constitution has against an attempt."""
    if principle == CORRECT and a.wrong is not None:
        return f"Line {a.wrong + 1} should be {_mended(a.written[a.wrong])}."
    if principle == COMPLETE and not a.ended:
        return "The answer is missing."
    return "Nothing."


def _critique(drawn: _Drawn, instruction: str, levels: int) -> tuple[Text, str]:
    a, principle = drawn.attempt(), drawn.draw.choice(PRINCIPLES)
    return critique_prompt(a.prompt, a.text, principle), _critique_of(a, principle)


def _revision(drawn: _Drawn, instruction: str, levels: int) -> tuple[Text, str]:
    a, principle = drawn.attempt(), drawn.draw.choice(PRINCIPLES)
    asked = revision_prompt(a.prompt, a.text, principle, _critique_of(a, principle))
    return asked, a.solution


def _reflection(drawn: _Drawn, instruction: str, levels: int) -> tuple[Text, str]:
    """A solution that notices its first wrong line, says so, and goes on from the right one."""
    a = drawn.attempt(ends=True)
    if a.wrong is None:
        return a.prompt, a.solution
    right = a.solution.strip().split("\n")
    lines = [*right[: a.wrong], a.lines[a.wrong], REFLECT, *right[a.wrong :]]
    return a.prompt, " " + "\n".join(lines)


REFLECT = "Wait."
"""The line by which a solution turns back to the line before it."""

_MAKERS: dict[str, Callable[[_Drawn, str, int], tuple[Text, str]]] = {
    "comparison": _comparison,
    "rating": _rating,
    "criterion": _criterion,
    "verdict": _verdict,
    "critique": _critique,
    "revision": _revision,
    "reflection": _reflection,
}


@tasks.register
def reviews(
    *,
    kinds: list[
        Literal[
            "comparison", "rating", "criterion", "verdict", "critique", "revision", "reflection"
        ]
    ],
    num_examples: int = 1000,
    num_steps: int = 2,
    max_operand: int = 20,
    max_value: int = 99,
    slips: float = 0.3,
    levels: int = 5,
    instruction: str | None = None,
    split: Literal["train", "validation", "test"] = "train",
    seed: int = 0,
) -> Task:
    """Made judgements of made solutions of task arithmetic, to imitate: how a model too small to
    judge by itself is taught to.

    The questions are those that rewards `judge`, `judge_win_rate`, `rubric` and `reasoned_judge`
    and method critique_revise ask, word for word. The score is 1 for the reply itself (of a
    verdict: for the same verdict).
      comparison: A or B, of a right and a wrong solution.   rating: 1 to levels, by right lines.
      criterion: yes or no, of a line or the answer.   verdict: each line checked, then yes or no.
      critique, revision: by the principles "Every line is right." and "It ends in #### and the
      answer."   reflection: a solution that says "Wait." after its wrong line and mends it.

    Args:
        kinds: what is asked, in turns.
        slips: probability that a line of a solution is wrong.
        levels: of ratings.
        instruction: what stands before judges' questions; that of the rewards where left out.
        split: of the problems, as of task arithmetic.
    """
    if not kinds or num_steps < 1 or not 0 <= slips <= 1 or levels < 2:
        raise ConfigError(
            f"reviews: kinds {kinds} must name at least one, num_steps {num_steps} be at least 1, "
            f"slips {slips} from 0 to 1, and levels {levels} at least 2"
        )
    drawn = _Drawn(num_steps, max_operand, max_value, slips, split, seed)
    examples = []
    for number in range(num_examples):
        kind = kinds[number % len(kinds)]
        prompt, reply = _MAKERS[kind](drawn, instruction or INSTRUCTION, levels)
        is_reply = kind in ("critique", "revision", "reflection")
        completion = reply if is_reply else as_reply(reply, chat=False)
        answer = reply.rpartition(VERDICT)[2].strip() if kind == "verdict" else reply.strip()
        name = f"reviews-{split}-{seed}-{number}"
        examples.append(Example(prompt, completion, answer, {"kind": kind}, id=name))
    return Task("reviews", examples, _score, _extract, max_tokens=20 * num_steps + 40)


def _extract(text: str) -> str | None:
    return text.rpartition(VERDICT)[2].strip() or None


def _score(text: str, example: Example) -> float:
    return float(_extract(text) == example.answer)
