"""Rewards that pay for short right answers, relative to the other completions of a prompt.

Each is called with all completions of a step. n is a completion's number of tokens, G the number of
completions of its prompt. A completion is right where the task's grade is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from posttrain.errors import ConfigError
from posttrain.registry import rewards
from posttrain.types import plain_text


@rewards.register
def group_length(completions, completion_ids, examples, task) -> list[float]:
    """Kimi k1.5's length reward (arXiv 2501.12599, section 2.3.3).

        u = 1/2 - (n - n_min) / (n_max - n_min);   u of a right completion, min(0, u) of a wrong one

    n_min and n_max are the lengths of the shortest and longest completion of the prompt; 0 where
    all are equally long. Add it to the reward task.
    """

    def group(lengths: np.ndarray, right: np.ndarray) -> np.ndarray:
        width = lengths.max() - lengths.min()
        if width == 0:
            return np.zeros(len(lengths))
        u = 0.5 - (lengths - lengths.min()) / width
        return np.where(right, u, np.minimum(u, 0.0))

    return _by_prompt("group_length", completions, completion_ids, examples, task, group)


@rewards.register
def adaptive_length(completions, completion_ids, examples, task, *, max_length: int) -> list[float]:
    """A penalty on length that grows with how easy the prompt is (ALP, arXiv 2506.05256).

        -(n / max_length) max(p, 1 / G),   p = the share of right completions of the prompt

    Hard prompts may be long; what is always solved has to be short. Add it to the reward task, with
    a weight such as 0.1. max_length: tokens that cost 1 on a prompt that is always solved.
    """
    if max_length < 1:
        raise ConfigError(f"rewards: adaptive_length: max_length {max_length} must be at least 1")

    def group(lengths: np.ndarray, right: np.ndarray) -> np.ndarray:
        share = max(float(right.mean()), 1 / len(right))
        return -lengths / max_length * share

    return _by_prompt("adaptive_length", completions, completion_ids, examples, task, group)


@rewards.register
def efficient(
    completions, completion_ids, examples, task, *, penalty: float = 0.1, epsilon: float = 1e-7
) -> list[float]:
    """The grade, less of it for a longer right completion (arXiv 2502.04463).

        right (1 - penalty s((n - mean) / (std + epsilon)))

    s is the logistic function; mean and standard deviation are over the right completions of the
    prompt. It takes the place of the reward task. penalty: from 0 (none) to below 1.
    """
    if not 0 <= penalty < 1:
        raise ConfigError(f"rewards: efficient: penalty {penalty} must be from 0 to below 1")

    def group(lengths: np.ndarray, right: np.ndarray) -> np.ndarray:
        if not right.any():
            return np.zeros(len(lengths))
        solved = lengths[right]
        z = (lengths - solved.mean()) / (solved.std() + epsilon)
        return right * (1 - penalty * np.exp(-np.logaddexp(0, -z)))

    return _by_prompt("efficient", completions, completion_ids, examples, task, group)


def _by_prompt(
    name: str,
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    examples: Sequence[Any],
    task: Any,
    group: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> list[float]:
    """`group(lengths, right)` of the completions of each prompt, in the order of completions."""
    if task is None:
        raise ConfigError(f"rewards: {name} asks a task which completions are right; name one")
    places: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        places.setdefault(example.id or plain_text(example.prompt), []).append(place)
    texts = [c if isinstance(c, str) else str(c[-1]["content"]) for c in completions]
    values = [math.nan] * len(texts)
    for some in places.values():
        lengths = np.array([len(completion_ids[i]) for i in some], dtype=np.float64)
        right = np.array([task.score(texts[i], examples[i]) >= 1 for i in some])
        for i, value in zip(some, group(lengths, right), strict=True):
            values[i] = float(value)
    return values
