"""One base model with several adapters, each asked for by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from posttrain.engines.base import Finished, OnLogprobs, OnTokens
from posttrain.engines.tickets import Statistics
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, nearest
from posttrain.models.language_model import LanguageModel
from posttrain.types import Constraint, Request, Sample


class AdaptedEngine:
    """Samples from a base model and from the same base below adapters. An `Engine`.

    A request's `adapter` says which of them writes. Each has an engine of its own, whose rows are
    stepped in passes of their own, so that a sample is the one that its model writes alone. The
    engines share the weights of the base (`models.adapter_sharing`) and one set of bounds. What one
    has computed of a prompt is never taken for another.

    Args:
        model: the base. adapters: by name, models of the base's weights. bounds: of `TorchEngine`.
    Attributes:
        base: the engine of requests without adapter. weights_version: of the base.

    Raises:
        ConfigError: a bound is out of range.
    """

    in_flight = False

    def __init__(
        self, model: LanguageModel, adapters: Mapping[str, LanguageModel], **bounds: Any
    ) -> None:
        self.base = TorchEngine(model, **bounds)
        self.weights_version = self.base.weights_version
        self._engines = {"": self.base}
        for name, adapted in adapters.items():
            self._engines[name] = TorchEngine(adapted, beside=self.base, **bounds)
        self._open: dict[int, tuple[str, int]] = {}  # ticket -> adapter, its engine's ticket
        self._finished: list[Finished] = []  # not yet given out by `step`
        self._next_ticket = 0

    @property
    def stop_ids(self) -> frozenset[int]:
        """Of the base."""
        return self.base.stop_ids

    @property
    def context_length(self) -> int | None:
        """Of the base; virtual tokens of an adapter take some of it."""
        return self.base.context_length

    @property
    def num_open(self) -> int:
        """Requests that are neither finished nor aborted."""
        return len(self._open)

    @property
    def stats(self) -> Statistics:
        """Counts of all engines together."""
        names = [field.name for field in dataclasses.fields(Statistics)]
        engines = self._engines.values()
        return Statistics(**{n: sum(getattr(e.stats, n) for e in engines) for n in names})

    @property
    def num_prefix_bytes(self) -> int:
        """Bytes that all engines hold for later prompts."""
        return sum(engine.num_prefix_bytes for engine in self._engines.values())

    def engine(self, adapter: str) -> TorchEngine:
        """The engine of an adapter, "" for the base.

        Raises:
            ConfigError: there is no such adapter.
        """
        if adapter not in self._engines:
            names = [name for name in self._engines if name]
            raise ConfigError(f"adapter {adapter!r} is not loaded: {nearest(adapter, names)}")
        return self._engines[adapter]

    def compile(self, constraint: Constraint) -> None:
        """See `TorchEngine.compile`."""
        self.base.compile(constraint)

    def submit(
        self,
        request: Request,
        on_tokens: OnTokens | None = None,
        on_logprobs: OnLogprobs | None = None,
    ) -> int:
        """Hand in a request; its ticket.

        Raises:
            DataError, ConfigError: see `check_requests`; an unknown adapter.
        """
        engine = self.engine(request.adapter)
        inner = engine.submit(replace(request, adapter=""), on_tokens, on_logprobs)
        ticket = self._next_ticket
        self._next_ticket += 1
        self._open[ticket] = (request.adapter, inner)
        return ticket

    def step(self) -> list[Finished]:
        """One decoding step of every engine that has open requests; the requests that finish.

        Whatever a model raises is raised here; all open requests are then aborted.
        """
        self._advance()
        finished, self._finished = self._finished, []
        return finished

    def abort(self, ticket: int) -> None:
        """End a request without a result. Tickets that are not open are ignored."""
        if ticket in self._open:
            adapter, inner = self._open.pop(ticket)
            self._engines[adapter].abort(inner)

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """Samples for each request, in order. Other open requests go on meanwhile.

        Raises:
            DataError, ConfigError: see `submit`.
        """
        tickets: list[int] = []
        try:
            tickets += map(self.submit, requests)
            while any(ticket in self._open for ticket in tickets):
                self._advance()
        except BaseException:
            for ticket in tickets:
                self.abort(ticket)
            self._take(tickets)
            raise
        finished = {f.ticket: f for f in self._take(tickets)}
        for result in finished.values():
            if result.error is not None:
                raise result.error
        return [finished[ticket].samples for ticket in tickets]

    def score(self, sequences: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        """Log-probs of ids[start:] under the base at temperature 1."""
        return self.base.score(sequences)

    def sync(self, version: int) -> None:
        """The base has new weights.

        Raises:
            ConfigError: requests are open.
        """
        if self._open:
            raise ConfigError(
                f"{len(self._open)} requests are open; finish or abort them before the weights "
                "change"
            )
        self.weights_version = version
        for engine in self._engines.values():
            engine.sync(version)

    def _advance(self) -> None:
        """One step of every engine that has open requests."""
        try:
            for adapter, engine in self._engines.items():
                if engine.num_open:
                    self._finished += self._named(adapter, engine.step())
        except BaseException:
            for ticket in list(self._open):
                self.abort(ticket)
            raise

    def _named(self, adapter: str, results: Sequence[Finished]) -> Iterator[Finished]:
        """Results of an engine under the tickets of this one."""
        if not results:
            return
        tickets = {inner: ticket for ticket, (of, inner) in self._open.items() if of == adapter}
        for result in results:
            ticket = tickets.get(result.ticket)
            if ticket is not None:  # it may have been aborted while its last tokens were given out
                del self._open[ticket]
                yield replace(result, ticket=ticket)

    def _take(self, tickets: Sequence[int]) -> list[Finished]:
        """The results of these tickets, which `step` then does not give out."""
        wanted = set(tickets)
        taken = [f for f in self._finished if f.ticket in wanted]
        self._finished = [f for f in self._finished if f.ticket not in wanted]
        return taken
