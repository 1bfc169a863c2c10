"""A language model that is written down, and an `ask` that decodes it greedily."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from posttrain.budget import Budget
from posttrain.search.base import Candidate, Ids, Ledger
from posttrain.types import Sampling, TopTokens

Model = Callable[[Ids], dict[int, float]]
"""Context -> probabilities of the next token."""

END = 0
"""Ends a text."""


def decode(ids: Iterable[int]) -> str:
    """Ids below 10 are digits, others letters: 10 is "a"."""
    return "".join(str(i) if i < 10 else chr(87 + i) for i in ids if i != END)


def encode(text: str) -> Ids:
    """The ids of a text of digits and letters."""
    return tuple(int(c) if c.isdigit() else ord(c) - 87 for c in text)


def likeliest(model: Model, context: Ids, count: int) -> TopTokens:
    """The likeliest next ids, best first."""
    ordered = sorted(model(context).items(), key=lambda item: (-item[1], item[0]))
    return tuple((i, math.log(p)) for i, p in ordered[:count] if p > 0)


class TokenAsk:
    """An `Ask` about the prompt (50,). calls: (context, max_tokens, num_top_logprobs) of each."""

    context_length: int | None = None

    def __init__(
        self, model: Model, *, max_tokens: int = 8, budget: int = 10**9, stop: Sequence[str] = ()
    ) -> None:
        self.model = model
        self.sampling = Sampling(max_tokens=max_tokens, stop=tuple(stop))
        self.seed, self.random = 0, random.Random(0)
        self.budget, self.ledger = Budget(max_tokens=budget), Ledger()
        self.stop_ids = frozenset({END})
        self.calls: list[tuple[Ids, int, int]] = []

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
        room = self.sampling.max_tokens if max_tokens is None else max_tokens
        self.calls.append((context, room, num_top_logprobs))
        return [
            self._written(context, (*self.sampling.stop, *stop), room, num_top_logprobs)
            for _ in range(n)
        ]

    def _written(self, context: Ids, stop: Sequence[str], room: int, count: int) -> Candidate:
        ids: list[int] = []
        logprobs: list[float] = []
        tops: list[TopTokens] = []
        stop_string = None
        while len(ids) < room and not self.budget.is_spent:
            place = (*context, *ids)
            ((token, logprob),) = likeliest(self.model, place, 1)
            ids.append(token)
            logprobs.append(logprob)
            tops += [likeliest(self.model, place, count)] * bool(count)
            self.budget.spend(1)
            stop_string = next((s for s in stop if s in decode(ids)), None)
            if token == END or stop_string is not None:
                break
        ended = stop_string is not None or ids[-1:] == [END]
        text = decode(ids).partition(stop_string)[0] if stop_string else decode(ids)
        total = math.fsum(logprobs)
        args: Any = (tuple(logprobs), tuple(tops), context)
        return Candidate(tuple(ids), text, total, ended, stop_string, *args)


def table(rows: dict[str, dict[str, float]], otherwise: dict[str, float]) -> Model:
    """A model by the text behind the prompt; "." is the end.

    otherwise: of texts that are not in the rows.
    """

    def probs(context: Ids) -> dict[int, float]:
        row = rows.get(decode(context[1:]), otherwise)
        return {END if c == "." else encode(c)[0]: p for c, p in row.items()}

    return probs
