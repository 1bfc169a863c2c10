"""The problems of a task as prompts of token ids, prepared without a model's weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from posttrain.data.templates import encode_prompt
from posttrain.errors import ConfigError, DataError
from posttrain.evaluation.samples import Problem
from posttrain.types import Sampling, Task


@dataclass(frozen=True, slots=True)
class Problems:
    """Problems whose prompts fit into a context.

    Attributes:
        fitting: examples with their prompts as ids.
        dropped: those whose prompt and completion exceed the context.
        num_available: problems that the task has.
    """

    fitting: list[Problem]
    dropped: list[Problem]
    num_available: int


def encode_problems(
    task: Task,
    tokenizer: Any,
    context_length: int | None,
    sampling: Sampling,
    *,
    num_examples: int | None = 200,
    max_dropped: float = 0.1,
) -> Problems:
    """Encode the first `num_examples` problems of a task, and drop those that are too long.

    A problem is too long where its prompt and sampling.max_tokens new tokens exceed the context.
    Problems that are not asked are not encoded, so that they cannot stop an evaluation.

    Args:
        context_length: positions of the model; None = no bound.
        num_examples: None = all.
        max_dropped: largest share of the problems that may be dropped.

    Raises:
        DataError, ConfigError: more are too long; the message says what to change.
    """
    problems: list[Problem] = []
    for example in task.examples[:num_examples]:
        ids = encode_prompt(tokenizer, example.prompt, system=task.system)
        problems.append((example, tuple(ids)))
    room = math.inf if context_length is None else context_length - sampling.max_tokens
    fitting = [p for p in problems if len(p[1]) <= room]
    dropped = [p for p in problems if len(p[1]) > room]
    if context_length is not None and dropped:
        _check_dropped(task, problems, dropped, sampling, context_length, max_dropped)
    return Problems(fitting, dropped, len(task.examples))


def _check_dropped(
    task: Task,
    problems: list[Problem],
    dropped: list[Problem],
    sampling: Sampling,
    context: int,
    allowed: float,
) -> None:
    """Refuse to drop more problems than allowed; the way out depends on what is too long."""
    share = len(dropped) / len(problems)
    some_fit = len(dropped) < len(problems)
    if share <= allowed and some_fit:
        return
    accept = ""
    if some_fit:
        accept = f", or set max_prompts_dropped={math.ceil(share * 100) / 100:g} to drop them"
    longest, ids = max(dropped, key=lambda p: len(p[1]))
    without_room = [p for p in problems if len(p[1]) + 1 > context]
    if len(without_room) > allowed * len(problems) or len(without_room) == len(problems):
        raise DataError(
            f"task {task.name!r}: {len(without_room)} of {len(problems)} prompts leave no room for "
            f"a completion in the model's context of {context} tokens (the longest, {longest.id}, "
            f"has {len(ids)}), more than max_prompts_dropped={allowed:g} allows; shorten the "
            f"prompts, take a model with a longer context{accept}"
        )
    room = context - max(len(p[1]) for p in problems if len(p[1]) < context)
    raise ConfigError(
        f"sampling.max_tokens: {sampling.max_tokens} new tokens after the prompt exceed the "
        f"model's context of {context} for {len(dropped)} of {len(problems)} prompts (the longest, "
        f"{longest.id}, has {len(ids)} tokens), more than max_prompts_dropped={allowed:g} allows; "
        f"set it to at most {room}{accept}"
    )
