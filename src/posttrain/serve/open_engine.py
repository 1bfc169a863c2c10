"""An engine that takes and drops requests while it runs, and such a face of one that cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from posttrain.engines.base import Engine
from posttrain.errors import PosttrainError
from posttrain.types import Request, Sample

OnTokens = Callable[[int, list[int]], None]
"""Called within a step with the index of a sample in its request and its new token ids."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A ticket that has ended: its samples, or the error that kept it from having any."""

    ticket: int
    samples: list[Sample]
    error: PosttrainError | None = None


class OpenEngine(Protocol):
    """What the server needs of an engine."""

    def submit(self, request: Request, on_tokens: OnTokens | None = None) -> int:
        """Take a request; returns its ticket."""
        ...

    def step(self) -> list[Finished]:
        """One step of everything that is open; what ended in it."""
        ...

    def abort(self, ticket: int) -> None:
        """Drop a request and free its rows."""
        ...

    @property
    def num_open(self) -> int:
        """Tickets that are neither finished nor aborted."""
        ...

    def score(self, sequences: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        """Log-probs of ids[start:] at temperature 1, for each (ids, start)."""
        ...


class BatchedEngine:
    """An engine that only has `generate`: one step answers all requests that wait."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._waiting: dict[int, tuple[Request, OnTokens | None]] = {}
        self._next = 0

    def submit(self, request: Request, on_tokens: OnTokens | None = None) -> int:
        self._next += 1
        self._waiting[self._next] = request, on_tokens
        return self._next

    def step(self) -> list[Finished]:
        batch, self._waiting = self._waiting, {}
        try:
            groups = self.engine.generate([request for request, _ in batch.values()])
        except PosttrainError as error:
            return [Finished(ticket, [], error) for ticket in batch]
        finished = []
        for (ticket, (_, on_tokens)), samples in zip(batch.items(), groups, strict=True):
            for index, sample in enumerate(samples):
                if on_tokens is not None:
                    on_tokens(index, sample.ids)
            finished.append(Finished(ticket, samples))
        return finished

    def abort(self, ticket: int) -> None:
        self._waiting.pop(ticket, None)

    @property
    def num_open(self) -> int:
        return len(self._waiting)

    def score(self, sequences: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        return self.engine.score(sequences)
