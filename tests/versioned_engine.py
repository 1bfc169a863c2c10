"""An engine without a model, whose samples say which version of the weights wrote each token."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from posttrain.engines.base import Finished, OnLogprobs, OnTokens
from posttrain.types import Request, Sample, VersionSpan


class VersionedEngine:
    """One token per sample and step. A sample has 1 + (seed + index) % 7 tokens, or what `lengths`
    says of its seed; each id is the prompt's first.

    Attributes:
        begun: (seed, version) of each request, in order. gate: steps wait for it.
    """

    stop_ids: frozenset[int] = frozenset()
    context_length = None

    def __init__(self, *, in_flight: bool = True, lengths: dict[int, int] | None = None) -> None:
        self.weights_version = 0
        self.in_flight = in_flight
        self.lengths = lengths or {}
        self.begun: list[tuple[int, int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.broken: Exception | None = None
        self.closed = False
        self._open: dict[int, tuple[Request, list[list[int]]]] = {}
        self._lock = threading.Lock()

    @property
    def num_open(self) -> int:
        return len(self._open)

    def submit(
        self,
        request: Request,
        on_tokens: OnTokens | None = None,
        on_logprobs: OnLogprobs | None = None,
    ) -> int:
        ticket = len(self.begun)
        self.begun.append((request.seed, self.weights_version))
        self._open[ticket] = (request, [[] for _ in range(request.n)])
        return ticket

    def step(self) -> list[Finished]:
        if not self.gate.wait(20):
            raise AssertionError("the gate stayed shut")
        if self.broken is not None:
            raise self.broken
        done = []
        with self._lock:
            for ticket, (request, written) in list(self._open.items()):
                for index, versions in enumerate(written):
                    if len(versions) < self._length(request, index):
                        versions.append(self.weights_version)
                if all(len(v) == self._length(request, i) for i, v in enumerate(written)):
                    del self._open[ticket]
                    done.append(Finished(ticket, [_sample(request, v) for v in written]))
        return done

    def _length(self, request: Request, index: int) -> int:
        return self.lengths.get(request.seed, 1 + (request.seed + index) % 7)

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        tickets = [self.submit(request) for request in requests]
        done: dict[int, list[Sample]] = {}
        while len(done) < len(tickets):
            done |= {f.ticket: f.samples for f in self.step()}
        return [done[ticket] for ticket in tickets]

    def sync(self, version: int) -> None:
        with self._lock:
            assert self.in_flight or not self._open, "weights changed under open requests"
            self.weights_version = version

    def abort(self, ticket: int) -> None:
        self._open.pop(ticket, None)

    def score(self, sequences: Any) -> Any:
        raise AssertionError("nobody asks for scores")

    def close(self) -> None:
        self.closed = True
        self.broken = self.broken or RuntimeError("closed")
        self.gate.set()


def _sample(request: Request, versions: list[int]) -> Sample:
    spans: list[VersionSpan] = []
    for place, version in enumerate(versions):
        if spans and spans[-1].version == version:
            spans[-1] = spans[-1]._replace(end=place + 1)
        else:
            spans.append(VersionSpan(version, place, place + 1))
    ids = [request.prompt_ids[0]] * len(versions)
    logprobs = [-1.0] * len(ids)
    several = tuple(spans) if len(spans) > 1 else ()
    return Sample(
        ids, logprobs, logprobs, "stop", weights_version=min(versions), version_spans=several
    )
