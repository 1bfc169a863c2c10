"""Any procedural data set of the library reasoning-gym."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

from posttrain.errors import ConfigError, MissingDependency, nearest
from posttrain.registry import tasks
from posttrain.rewards.exact import canonical, extract_answer
from posttrain.rewards.time_limit import TimeLimitExceeded, call_within
from posttrain.types import Example, Task

_INSTRUCTION = "\nGive the final answer as <answer>...</answer>."

_SECONDS = 2.0  # of a verdict; the library's take milliseconds
_MAX_LENGTH = 10_000
_EVALUATES = re.compile(r"(?<![\w.])eval\(|\bparse_expr\(")
_CALL = re.compile(r"((?<!\w)[^\W\d]\w*|[)\]}'\"])\s*\(")
_FUNCTIONS = frozenset(
    {
        *("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
        *(
            "exp",
            "log",
            "ln",
            "sqrt",
            "Abs",
            "abs",
            "Integral",
            "erf",
            "erfi",
            "Si",
            "Ci",
            "Ei",
            "li",
        ),
    }
)


def runs_answers(dataset: Any) -> bool:
    """Whether the scorer of a data set hands answers to Python's eval, itself or through sympy."""
    module = sys.modules[type(dataset).__module__]
    return _EVALUATES.search(inspect.getsource(module)) is not None


def calls_nothing(answer: str) -> bool:
    """Whether an answer, run as Python, calls no more than functions of mathematics."""
    if "__" in answer or "lambda" in answer:
        return False
    return all(match[1] in _FUNCTIONS for match in _CALL.finditer(answer))


@tasks.register
def reasoning_gym(
    *,
    dataset: str,
    num_examples: int = 500,
    seed: int = 0,
    settings: dict[str, Any] = {},
    partial: bool = False,
    max_tokens: int = 256,
) -> Task:
    """A data set of reasoning-gym by name, with its own verifier (arXiv 2505.24760).

    settings go to the generator. Answers stand in <answer></answer>. The library gives part credit
    to texts that merely hold the right answer; unless partial, only a full score counts, so that it
    cannot be farmed. Some of its verifiers run answers as Python: there an answer that calls more
    than sin, sqrt and the like is wrong and is not run. A verdict that takes longer than 2 s is 0,
    and so is an answer of more than 10,000 characters.
    """
    try:
        import reasoning_gym as gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise MissingDependency("reasoning-gym", "gym") from error
    if dataset not in DATASETS:
        raise ConfigError(
            f"reasoning_gym: unknown dataset {dataset!r}: {nearest(dataset, DATASETS)}"
        )
    try:
        problems = gym.create_dataset(dataset, seed=seed, size=num_examples, **settings)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(
            f"reasoning_gym: {dataset} refuses its settings {settings}: {error}"
        ) from error
    entries = [problems[i] for i in range(num_examples)]
    examples = [
        Example(
            entry["question"] + _INSTRUCTION,
            f"<answer>{entry['answer']}</answer>" if entry["answer"] is not None else None,
            entry["answer"],
            {"entry": i},
            id=f"{dataset}-{seed}-{i}",
        )
        for i, entry in enumerate(entries)
    ]

    guarded = runs_answers(problems)

    def score(completion: str, example: Example) -> float:
        answer = extract_answer(completion, "tag")
        if not answer or len(answer) > _MAX_LENGTH or (guarded and not calls_nothing(answer)):
            return 0.0
        entry = entries[example.columns["entry"]]
        try:
            value = float(
                call_within(
                    lambda: problems.score_answer(answer, entry),
                    what=f"the verifier of {dataset}",
                    seconds=_SECONDS,
                )
            )
        except (Exception, SystemExit, TimeLimitExceeded):
            # The library's scorers raise on some malformed answers, which are simply wrong.
            return 0.0
        return value if partial else float(value >= 1.0)

    def extract(completion: str) -> str | None:
        return canonical(extract_answer(completion, "tag"))

    return Task(f"reasoning_gym/{dataset}", examples, score, extract, max_tokens=max_tokens)
