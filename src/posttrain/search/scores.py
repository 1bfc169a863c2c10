"""Candidates with scores, and their order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from posttrain.search.base import Candidate


async def scored(candidates: Sequence[Candidate], score) -> list[Candidate]:
    """Candidates with their scores. score: candidates -> numbers, a coroutine."""
    numbers = await score(candidates)
    return [c.scored(number) for c, number in zip(candidates, numbers, strict=True)]


def number_of(path: Candidate) -> float:
    """The score; -inf where there is none."""
    return -math.inf if path.score is None else path.score


def rank(path: Candidate) -> tuple[float, float]:
    """What candidates are ordered by: the score, then the log-prob per token in nats."""
    return number_of(path), path.mean_logprob


def best_place(paths: Sequence[Candidate], allowed: Sequence[bool] | None = None) -> int:
    """The place of the highest `rank`; ties go to the first.

    allowed: which places count; None: all.
    """
    places = [i for i in range(len(paths)) if allowed is None or allowed[i]]
    return max(places, key=lambda i: rank(paths[i]))


def best_paths(paths: Iterable[Candidate], number: int) -> list[Candidate]:
    """The paths with the highest scores, best first; ties stay in order."""
    return sorted(paths, key=lambda path: -number_of(path))[:number]


def softmax(numbers: Sequence[float]) -> list[float]:
    """e^x / sum e^x; -inf has no share, unless all are."""
    high = max(numbers)
    if high == -math.inf:
        return [1 / len(numbers)] * len(numbers)
    powers = [math.exp(x - high) for x in numbers]
    total = sum(powers)
    return [power / total for power in powers]
