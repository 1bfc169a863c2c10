"""Searches without a model: an `ask` whose samples are written down."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pytest

from posttrain.budget import Budget
from posttrain.search.base import Candidate, Ids, Ledger
from posttrain.types import Sampling

T = TypeVar("T")

Write = Callable[[Ids, int], Sequence[Candidate]]
"""(context, n) -> n candidates."""


class ScriptedAsk:
    """An `Ask` of a function. calls: (context, n, stop, max_tokens) of each call."""

    def __init__(
        self,
        write: Write,
        max_tokens: int = 20,
        budget: int = 10**9,
        stop_ids: Sequence[int] = (),
        stop: tuple[str, ...] = (),
    ) -> None:
        self.write = write
        self.sampling = Sampling(max_tokens=max_tokens, stop=stop)
        self.stop_ids, self.context_length = frozenset(stop_ids), None
        self.seed, self.random = 0, random.Random(0)
        self.budget = Budget(max_tokens=budget)
        self.ledger = Ledger()
        self.calls: list[tuple[Ids, int, tuple[str, ...], int | None]] = []

    async def __call__(
        self,
        context: Ids,
        n: int = 1,
        *,
        stop: tuple[str, ...] = (),
        max_tokens: int | None = None,
        temperature: float | None = None,
        num_top_logprobs: int = 0,
    ) -> list[Candidate]:
        await asyncio.sleep(0)
        self.calls.append((tuple(context), n, stop, max_tokens))
        candidates = list(self.write(tuple(context), n))
        for candidate in candidates:
            candidate.context_ids = tuple(context)
        self.budget.spend(sum(len(c.ids) for c in candidates))
        return candidates


def scores_of(number: Callable[[Candidate], float]) -> Any:
    """A `score` coroutine of a function of one candidate."""

    async def score(candidates: Sequence[Candidate]) -> list[float]:
        return [number(c) for c in candidates]

    return score


@pytest.fixture
def scripted() -> type[ScriptedAsk]:
    """The class of scripted asks."""
    return ScriptedAsk


@pytest.fixture
def scores() -> Callable[[Callable[[Candidate], float]], Any]:
    """Makes a `score` coroutine of a function of one candidate."""
    return scores_of


@pytest.fixture
def search() -> Callable[[Coroutine[Any, Any, T]], T]:
    """Runs a search to its end."""
    return lambda coroutine: asyncio.run(coroutine)
