"""An `ask` that answers by the text of its context. A token is a character."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from posttrain.budget import Budget
from posttrain.search.base import Candidate, Ids, Ledger
from posttrain.types import Sampling, Text, plain_text

Replies = Mapping[str, str | Sequence[str]] | Callable[[str], str]
"""Context -> what is written behind it; several are written in turn."""


@dataclass(frozen=True, slots=True)
class Call:
    """What was asked."""

    context: str
    n: int
    stop: tuple[str, ...]
    max_tokens: int | None
    temperature: float | None


class Spoken:
    """An `Ask` of replies by context; a context that is not among them is an error.

    A reply is cut at the budget and at max_tokens, and has not ended then. "" ends at once. Beyond
    the budget no reply is looked up.
    """

    def __init__(self, replies: Replies, budget: int = 10**9, max_tokens: int = 10**6) -> None:
        self.replies = replies
        self.sampling = Sampling(max_tokens=max_tokens)
        self.seed, self.random = 0, random.Random(0)
        self.budget = Budget(max_tokens=budget)
        self.ledger = Ledger()
        self.calls: list[Call] = []
        self._turns: dict[str, int] = {}

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
        text = text_of(context)
        self.calls.append(Call(text, n, stop, max_tokens, temperature))
        return [self._candidate(tuple(context), text, stop, max_tokens) for _ in range(n)]

    def _candidate(
        self, context: Ids, text: str, stop: tuple[str, ...], max_tokens: int | None
    ) -> Candidate:
        bound = self.sampling.max_tokens if max_tokens is None else max_tokens
        room = int(min(bound, self.budget.tokens_left))
        if room < 1:
            return Candidate((), "", 0.0, False, context_ids=context)
        reply = self._reply(text)
        at = min((reply.index(s) for s in stop if s in reply), default=None)
        whole = reply if at is None else reply[: at + 1]  # a stop string of one character
        written = whole[:room]
        self.budget.spend(len(written))
        ended = len(whole) <= room
        stopped = whole[-1] if ended and at is not None else None
        shown = written[:at] if stopped else written
        return Candidate(
            render(written), shown, -0.1 * len(written), ended, stopped, context_ids=context
        )

    def _reply(self, text: str) -> str:
        if callable(self.replies):
            return self.replies(text)
        reply = self.replies[text]
        if isinstance(reply, str):
            return reply
        turn = self._turns[text] = self._turns.get(text, -1) + 1
        return reply[turn % len(reply)]


def render(text: Text) -> Ids:
    """Ids of a text, or of messages as one line a turn."""
    return tuple(map(ord, plain_text(text)))


def text_of(ids: Ids) -> str:
    """The text of ids."""
    return "".join(map(chr, ids))


def number(text: str) -> str | None:
    """The last whole number of a text."""
    numbers = re.findall(r"\d+", text)
    return numbers[-1] if numbers else None
