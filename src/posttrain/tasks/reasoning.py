"""Chains of arithmetic with long worked reasoning: every step is checked backwards."""

from __future__ import annotations

import random
from typing import Literal

from posttrain.errors import ConfigError
from posttrain.registry import tasks
from posttrain.rewards.exact import canonical, last_tagged
from posttrain.tasks.arithmetic import Step, arithmetic, steps_of
from posttrain.types import Example, Task

WORDS = {"en": ("so", "and check"), "de": ("also", "und zwar")}
"""What a line begins with and what stands before its check, by language."""

_BACK = {"+": "-", "-": "+"}


def _line(step: Step, language: str) -> str:
    """A step and its check: of + and - the way back, of * a sum."""
    before, operation, operand, after = step
    first, check = WORDS[language]
    if operation == "*":
        back = f"{'+'.join([str(before)] * operand)}={after}"
    else:
        back = f"{after}{_BACK[operation]}{operand}={before}"
    return f"{first} {before}{operation}{operand}={after} {check} {back}"


def extract(completion: str) -> str | None:
    """The number between the last answer tags; None where there is none."""
    content = last_tagged(completion)
    value = canonical(content)
    return value if value is not None and value.lstrip("-").isdigit() else None


def score(completion: str, example: Example) -> float:
    """1 where the answer in the tags is the right number, else 0."""
    return float(extract(completion) == example.answer)


@tasks.register
def reasoning(
    *,
    num_examples: int = 1000,
    num_steps: int = 2,
    max_operand: int = 20,
    max_value: int = 99,
    mixed_share: float = 0.0,
    split: Literal["train", "validation", "test"] = "train",
    seed: int = 0,
) -> Task:
    """The problems and splits of task arithmetic, with long reasoning between tags: what a cold
    start imitates (DeepSeek-R1, arXiv 2501.12948).

    Prompt "Q: 7+5*3\\nA:", completion "<think>\\nso 7+5=12 and check 12-5=7\\nso 12*3=36 and check
    12+12+12=36\\n</think>\\n<answer>36</answer>". The score is 1 for the right number between the
    answer tags, else 0.

    Args:
        mixed_share: share of the lines that are in German, as in reasoning of a model that mixes
            languages.
    """
    if not 0 <= mixed_share <= 1:
        raise ConfigError(f"reasoning: mixed_share {mixed_share} is a share, from 0 to 1")
    problems = arithmetic(
        num_examples=num_examples,
        num_steps=num_steps,
        max_operand=max_operand,
        max_value=max_value,
        split=split,
        seed=seed,
    )
    draw = random.Random(f"reasoning {seed} {mixed_share}")
    examples = []
    for problem in problems.examples:
        lines = []
        for step in steps_of(problem):
            lines.append(_line(step, "de" if draw.random() < mixed_share else "en"))
        thought = "\n".join(lines)
        worked = f" <think>\n{thought}\n</think>\n<answer>{problem.answer}</answer>"
        name = problem.id.replace("arithmetic", "reasoning")
        examples.append(Example(problem.prompt, worked, problem.answer, problem.columns, id=name))
    return Task("reasoning", examples, score, extract, max_tokens=48 * num_steps + 48)
