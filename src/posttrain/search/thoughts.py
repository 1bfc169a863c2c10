"""Trees of thoughts: breadth first and depth first, valued by the model itself or by a scorer."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection
from posttrain.search.dialogue import check_template, filled, question_of, rewritten
from posttrain.search.scores import best_paths, number_of
from posttrain.search.steps import (
    Steps,
    at_least,
    distinct_texts,
)

Values = Callable[[Sequence[Candidate]], Awaitable[list[float]]]
"""Coroutine: paths -> how promising each is."""

VALUE_WORDS = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}
"""What the words of a self-evaluation are worth (arXiv 2305.10601)."""


@searches.register
async def tree_of_thoughts(
    prompt,
    ask,
    extract,
    decode,
    problem,
    render,
    *,
    order: Literal["breadth", "depth"] = "breadth",
    num_thoughts: int = 5,
    num_beams: int = 5,
    num_evaluations: int = 3,
    evaluation: str = (
        "{problem}\n\nA solution so far:\n{thoughts}\n\n"
        "Can it lead to the right answer? Answer with one word: {words}.\n"
    ),
    evaluation_tokens: int = 32,
    value_words: dict[str, float] | None = None,
    least_value: float = 0.01,
    separator: str = "\n",
    max_steps: int = 10,
) -> Selection:
    """Tree of thoughts with self-evaluation (Yao et al., arXiv 2305.10601).

        breadth: sample num_thoughts steps behind each path, keep the num_beams of highest value
        depth:   go to the step of highest value; back where no value reaches least_value; the first
                 whole path is the answer
        value of a path: sum over num_evaluations answers to the evaluation prompt of the worth of
                 the last value word in each; 0 without one

    evaluation: the prompt, with {problem}, {thoughts} and {words}. evaluation_tokens: of one
    answer. value_words: word -> worth; None is sure 20, likely 1, impossible 0.001. separator: text
    that ends a thought. max_steps: the last one runs to the end.
    """
    at_least("tree_of_thoughts", num_evaluations=num_evaluations)
    words = VALUE_WORDS if value_words is None else value_words
    if not words:
        raise ConfigError(
            "tree_of_thoughts: value_words is empty; give a word and what it is worth"
        )
    check_template("tree_of_thoughts.evaluation", evaluation, ("thoughts",))
    text = question_of(problem)
    cached: dict[str, float] = {}

    async def value_of(path: Candidate) -> float:
        fields = {"problem": text, "thoughts": path.text, "words": ", ".join(words)}
        question = filled(evaluation, **fields)
        answers = await ask(
            render(rewritten(problem, question)), num_evaluations, max_tokens=evaluation_tokens
        )
        return sum(worth(answer.text, words) for answer in answers)

    async def values(paths: Sequence[Candidate]) -> list[float]:
        new = {path.text: path for path in paths if path.text not in cached}
        numbers = await asyncio.gather(*(value_of(path) for path in new.values()))
        cached.update(zip(new, numbers, strict=True))
        return [cached[path.text] for path in paths]

    steps = Steps("tree_of_thoughts", prompt, ask, decode, separator, max_steps)
    limits = (num_thoughts, num_beams, least_value)
    return await _searched(steps, extract, values, order, *limits, num_evaluated=cached)


@searches.register
async def scored_thoughts(
    prompt,
    ask,
    extract,
    score,
    decode,
    *,
    order: Literal["breadth", "depth"] = "breadth",
    num_thoughts: int = 5,
    num_beams: int = 5,
    least_value: float = 0.0,
    separator: str = "\n",
    max_steps: int = 10,
) -> Selection:
    """Tree of thoughts (Yao et al., arXiv 2305.10601) whose paths a scorer values.

    Settings: as of tree_of_thoughts; least_value is in units of the score.
    """
    steps = Steps("scored_thoughts", prompt, ask, decode, separator, max_steps)
    return await _searched(steps, extract, score, order, num_thoughts, num_beams, least_value)


async def _searched(
    steps: Steps,
    extract,
    values: Values,
    order: str,
    num_thoughts: int,
    num_beams: int,
    least_value: float,
    **counted: Any,
) -> Selection:
    at_least(steps.search, num_thoughts=num_thoughts, num_beams=num_beams)
    if order == "breadth":
        paths, backtracks = await _breadth(steps, values, num_thoughts, num_beams), 0
    else:
        paths, backtracks = await _depth(steps, values, num_thoughts, least_value)
    notes = {name: float(len(collection)) for name, collection in counted.items()}
    return steps.chosen(paths, extract, "best", num_backtracks=backtracks, **notes)


async def _breadth(
    steps: Steps, values: Values, num_thoughts: int, num_beams: int
) -> list[Candidate]:
    """The paths that are kept at the end; whole ones compete with those that go on."""
    kept = [steps.root]
    while True:
        going = [path for path in kept if not steps.is_done(path)]
        if not going or (going[0].steps and steps.ask.budget.is_spent):
            return kept
        groups = await steps.grown(going, [num_thoughts] * len(going))
        new = distinct_texts([path for group in groups for path in group])
        done = [path for path in kept if steps.is_done(path)]
        kept = best_paths([*done, *await steps.scored(new, values)], num_beams)


async def _depth(
    steps: Steps, values: Values, num_thoughts: int, least_value: float
) -> tuple[list[Candidate], int]:
    """Paths in the order of visits, up to the first whole one, and how often the search went back.

    Without a whole one, the paths that were met.
    """
    stack, met, backtracks = [steps.root], [], 0
    while stack:
        path = stack.pop()
        if path.steps:
            met.append(path)
        if steps.is_ended(path):
            return [path], backtracks
        if steps.is_done(path) or (path.steps and steps.ask.budget.is_spent):
            backtracks += 1
            continue
        (group,) = await steps.grown([path], [num_thoughts])
        thoughts = await steps.scored(distinct_texts(group), values)
        promising = [thought for thought in thoughts if number_of(thought) >= least_value]
        backtracks += not promising
        met += [thought for thought in thoughts if number_of(thought) < least_value]
        stack += reversed(best_paths(promising, len(promising)))
    return met or [steps.root], backtracks


def worth(text: str, words: dict[str, float]) -> float:
    """What the last value word of an answer is worth; 0 without one."""
    tokens = re.findall(r"\w+", text.lower())
    worths = {word.lower(): value for word, value in words.items()}
    values = [worths[word] for word in tokens if word in worths]
    return values[-1] if values else 0.0
