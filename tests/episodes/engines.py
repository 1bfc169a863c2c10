"""Engines without a model, for tests of what asks them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.types import Request, Sample


def sample(ids: Sequence[int], finish_reason: Any = "stop") -> Sample:
    return Sample(list(ids), [-0.5] * len(ids), [-0.5] * len(ids), finish_reason)


def echo(request: Request, index: int) -> Sample:
    """Ids that depend on all that fixes a sample."""
    return sample([sum(request.prompt_ids) % 97, request.seed % 89, index])


@dataclass
class BatchEngine:
    """Answers a batch as a whole, as an engine without `submit` does."""

    write: Callable[[Request, int], Sample] = echo
    context_length: int | None = None
    stop_ids: frozenset[int] = frozenset()
    weights_version: int = 0
    batches: list[list[Request]] = field(default_factory=list)

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        self.batches.append(list(requests))
        return [[self.write(r, k) for k in range(r.n)] for r in requests]


@dataclass
class Finished:
    ticket: int
    samples: list[Sample]
    error: Any = None
    reused_tokens: int = 0


@dataclass
class OpenEngine:
    """Takes requests while it runs: each step writes one token of every open one."""

    write: Callable[[Request, int], Sample] = echo
    context_length: int | None = None
    stop_ids: frozenset[int] = frozenset()
    waits: bool = False
    step_seconds: float = 0.0
    steps: list[list[int]] = field(default_factory=list)  # tickets of each
    aborted: list[int] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    open: dict[int, Any] = field(default_factory=dict)

    def submit(self, request: Request, on_tokens: Any = None) -> int:
        ticket = len(self.requests)
        self.requests.append(request)
        samples = [self.write(request, k) for k in range(request.n)]
        self.open[ticket] = (samples, on_tokens, 0)
        return ticket

    def step(self) -> list[Finished]:
        time.sleep(self.step_seconds)
        self.steps.append(sorted(self.open))
        finished = []
        for ticket, (samples, on_tokens, written) in list(self.open.items()):
            for index, s in enumerate(samples):
                if on_tokens is not None and written < len(s.ids):
                    on_tokens(index, s.ids[written : written + 1])
            self.open[ticket] = (samples, on_tokens, written + 1)
            if written + 1 >= max(len(s.ids) for s in samples):
                del self.open[ticket]
                finished.append(Finished(ticket, samples))
        return finished

    def abort(self, ticket: int) -> None:
        self.aborted.append(ticket)
        self.open.pop(ticket, None)


def scripted(tokenizer: Any, policy: Callable[[str], str], end: str) -> BatchEngine:
    """An engine whose model writes what a policy says to the text of the prompt."""

    def write(request: Request, index: int) -> Sample:
        text = policy(str(tokenizer.decode(request.prompt_ids)))
        ids = list(tokenizer(text + end, add_special_tokens=False)["input_ids"])
        if len(ids) > request.sampling.max_tokens:
            return sample(ids[: request.sampling.max_tokens], "length")
        return sample(ids)

    return BatchEngine(write)
