"""An open engine without a model: its tokens are a function of (prompt, seed, index, place)."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

from posttrain.engines.base import Finished, OnLogprobs, OnTokens
from posttrain.engines.tickets import Ticket
from posttrain.errors import DataError, PosttrainError
from posttrain.types import Request, Sample

Write = Callable[[Request, int], Sequence[int]]
"""The ids that sample `index` of a request would have without limits and stops."""


def _logprob(place: int) -> float:
    return -1.0 - place / 10


class ScriptedEngine:
    """One token per sample and step.

    Args:
        write: what is written; by default a hash of the request chooses letters.
    Attributes:
        gate: steps wait for it. aborted: tickets that were aborted; aborted_after: the number of
        steps before the last of them. broken: raised by each step.
        refused: raised by submit.
    """

    weights_version = 0

    def __init__(self, tokenizer: Any, write: Write | None = None) -> None:
        self.tokenizer = tokenizer
        self.write = write
        self.gate = threading.Event()
        self.gate.set()
        self.aborted: list[int] = []
        self.requests: list[Request] = []
        self.broken: Exception | None = None
        self.refused: PosttrainError | None = None
        self.most_open = self.steps = self.aborted_after = 0
        self._open: dict[int, tuple[Request, Ticket, list[list[int]], list[Any]]] = {}

    def _token(self, request: Request, index: int, place: int) -> int:
        if self.write is not None:
            script = self.write(request, index)
            return script[place] if place < len(script) else self.tokenizer.eos_token_id
        name = f"{request.prompt_ids} {request.seed} {index} {place}"
        (token,) = self.ids("abcdefgh "[hashlib.blake2b(name.encode()).digest()[0] % 9])
        return token

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def stop_ids(self) -> frozenset[int]:
        return frozenset({self.tokenizer.eos_token_id})

    @property
    def context_length(self) -> int | None:
        return None

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        raise AssertionError("a server submits")

    def sync(self, version: int) -> None:
        raise AssertionError("a server's weights do not change")

    def submit(
        self,
        request: Request,
        on_tokens: OnTokens | None = None,
        on_logprobs: OnLogprobs | None = None,
    ) -> int:
        if self.refused is not None:
            raise self.refused
        if not request.prompt_ids:
            raise DataError("the prompt is empty")
        self.requests.append(request)
        ticket = len(self.requests)
        written: list[list[int]] = [[] for _ in range(request.n)]
        self._open[ticket] = (
            request,
            Ticket(request, on_tokens, on_logprobs),
            written,
            [None] * request.n,
        )
        self.most_open = max(self.most_open, len(self._open))
        return ticket

    def step(self) -> list[Finished]:
        self.gate.wait(10)
        self.steps += 1
        if self.broken is not None:
            raise self.broken
        finished = []
        for ticket, (request, opened, written, ends) in list(self._open.items()):
            for index in range(request.n):
                if ends[index] is None:
                    ends[index] = self._grow(request, opened, index, written[index])
            if None not in ends:
                del self._open[ticket]
                samples = list(map(self._sample, written, ends))
                finished.append(Finished(ticket, samples, reused_tokens=1))
        return finished

    def _grow(self, request: Request, opened: Ticket, index: int, ids: list[int]) -> Any:
        if request.budget is not None:
            if request.budget.is_spent:
                return ("budget", None)
            request.budget.spend(1)
        token = self._token(request, index, len(ids))
        ids.append(token)
        opened.tell(index, [token], [_logprob(len(ids) - 1)])
        if token == self.tokenizer.eos_token_id or token in request.sampling.stop_ids:
            return ("stop", None)
        text = self.tokenizer.decode(ids)
        for stop in request.sampling.stop:
            if stop in text:
                return ("stop", stop)
        return ("length", None) if len(ids) >= request.sampling.max_tokens else None

    def _sample(self, ids: list[int], end: Any) -> Sample:
        logprobs = [_logprob(place) for place in range(len(ids))]
        return Sample(ids, logprobs, logprobs, end[0], end[1])

    def abort(self, ticket: int) -> None:
        if self._open.pop(ticket, None) is not None:
            self.aborted.append(ticket)
            self.aborted_after = self.steps

    @property
    def num_open(self) -> int:
        return len(self._open)

    def score(self, sequences: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        return [[-float(i) for i in range(start, len(ids))] for ids, start in sequences]
