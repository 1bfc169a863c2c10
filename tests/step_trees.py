"""Searches over steps without a model: an `ask` that samples from a table of next tokens.

The token 9 is a line break, which separates steps, and 0 ends a completion.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from posttrain.budget import Budget
from posttrain.search.base import Candidate, Ids, Ledger
from posttrain.search.steps import Steps
from posttrain.types import Sampling

END, BREAK = 0, 9
PROMPT: Ids = (5,)

Policy = Callable[[Ids], Mapping[int, float]]
"""Ids of a completion so far -> probability of each next token."""


def decode(ids: Sequence[int]) -> str:
    """Text of a completion."""
    return "".join("\n" if i == BREAK else chr(48 + i) for i in ids if i != END)


def digits(*depths: Mapping[int, float]) -> Policy:
    """Lines of one digit each, whose probabilities depend on the line alone."""

    def policy(path: Ids) -> Mapping[int, float]:
        line, inside = divmod(len(path), 2)
        if not inside:
            return depths[line]
        return {END: 1.0} if line == len(depths) - 1 else {BREAK: 1.0}

    return policy


class TreeAsk:
    """An `Ask` about PROMPT. prompts: what to write behind other contexts than PROMPT's.

    calls: (context, n, stop, temperature) of each call.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        seed: int = 0,
        max_tokens: int = 40,
        budget: int = 10**9,
        max_calls: int | None = None,
        stop: tuple[str, ...] = (),
        others: Callable[[Ids], Policy] | None = None,
    ) -> None:
        self.policy, self.others = policy, others
        self.sampling = Sampling(max_tokens=max_tokens, stop=stop)
        self.seed, self.random = seed, random.Random(seed)
        self.budget = Budget(max_tokens=budget, max_calls=max_calls)
        self.ledger = Ledger()
        self.calls: list[tuple[Ids, int, tuple[str, ...], float | None]] = []
        self._occurrences: Counter[Ids] = Counter()

    async def __call__(
        self,
        context: Sequence[int],
        n: int = 1,
        *,
        stop: tuple[str, ...] = (),
        max_tokens: int | None = None,
        temperature: float | None = None,
        num_top_logprobs: int = 0,
    ) -> list[Candidate]:
        await asyncio.sleep(0)
        context = tuple(context)
        self.calls.append((context, n, stop, temperature))
        room = self.sampling.max_tokens if max_tokens is None else max_tokens
        self._occurrences[context] += 1
        draw = random.Random(f"{self.seed} {context} {self._occurrences[context]}")
        if room < 1 or not self.budget.call():
            return [Candidate((), "", 0.0, False, context_ids=context) for _ in range(n)]
        stops = (*self.sampling.stop, *stop)
        return [self._sample(context, "\n" in stops, room, temperature, draw) for _ in range(n)]

    def _sample(
        self, context: Ids, breaks: bool, room: int, temperature: float | None, draw: random.Random
    ) -> Candidate:
        policy, path = self.policy, context[len(PROMPT) :]
        if self.others is not None and context[: len(PROMPT)] != PROMPT:
            policy, path = self.others(context), ()
        ids: list[int] = []
        while len(ids) < room and not self.budget.is_spent:
            options = policy((*path, *ids))
            if temperature == 0:
                token = max(options, key=lambda t: options[t])
            else:
                token = draw.choices(list(options), weights=list(options.values()))[0]
            ids.append(token)
            self.budget.spend(1)
            if token == END or (breaks and token == BREAK):
                break
        ended = bool(ids) and (ids[-1] == END or (breaks and ids[-1] == BREAK))
        stop = "\n" if ended and ids[-1] == BREAK else None
        text = decode(ids[:-1] if stop else ids)
        return Candidate(tuple(ids), text, -float(len(ids)), ended, stop, context_ids=context)


def scores(number: Callable[[Candidate], float]) -> Any:
    """A `score` coroutine of a function of one candidate."""

    async def score(candidates: Sequence[Candidate]) -> list[float]:
        await asyncio.sleep(0)
        return [number(c) for c in candidates]

    return score


def run(search: Coroutine[Any, Any, Any]) -> Any:
    """The result of a search."""
    return asyncio.run(search)


def steps_of(ask: TreeAsk, max_steps: int = 40) -> Steps:
    """Steps of lines."""
    return Steps("test", PROMPT, ask, decode, "\n", max_steps)
