"""The embedded engine: samples with the very model that is trained, on any device torch runs on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch

from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.engines.base import Finished, OnLogprobs, OnTokens, check_requests
from posttrain.engines.bounds import Bound
from posttrain.engines.constraint import Grammars
from posttrain.engines.prefix_tree import PrefixMemory, PrefixTree
from posttrain.engines.room import Room, kv_bytes_of
from posttrain.engines.schedule import Row, Schedule
from posttrain.engines.speculation import Speculation
from posttrain.engines.steppers import Steppers
from posttrain.engines.stops import Stops, token_texts
from posttrain.engines.tickets import Statistics, Ticket
from posttrain.errors import ConfigError
from posttrain.kernels.graphs import CudaRecorder, StepGraphs
from posttrain.models.forest_model import evaluating
from posttrain.models.language_model import LanguageModel
from posttrain.types import Constraint, Request, Sample


class TorchEngine:
    """Samples from a LanguageModel. An `Engine`.

    Each distinct prompt is computed once, however many samples continue it; finished rows leave the
    batch and waiting ones take their places, in the order of the prompts; a sample is a function of
    (weights, prompt, sampling, seed, index) and not of what else is in the batch, up to the
    rounding of matrix products of other shapes. The weights must not change while requests are
    open, except `in_flight`.

    Args:
        max_rows: samples decoded side by side. max_kv_bytes: of keys and values that those may come
        to hold (one row runs whatever it needs); None is a quarter of a CUDA device's memory, and
        4 GiB elsewhere. max_prefill_tokens: of one prompt pass. max_prefix_bytes: of keys and
        values that are held for later prompts which begin alike, as long as the weights stay the
        same (0 = none). graphs: repeats steps from recordings (`kernels.graphs`); auto = on CUDA.
        speculation: drafts tokens, so that a pass may compute several of a row (None = never). It
        changes no sample.
        beside: an engine of the same base model, whose bounds hold for both together in place of
        those above.

    Raises:
        ConfigError: a bound below 1 (max_prefix_bytes: below 0), or speculation with a model that
        does not share trunks.
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        max_rows: int = 256,
        max_kv_bytes: int | None = None,
        max_prefill_tokens: int = 16384,
        max_prefix_bytes: int = 1 << 28,
        graphs: StepGraphs | Literal["auto"] | None = "auto",
        speculation: Speculation | None = None,
        beside: TorchEngine | None = None,
        in_flight: bool = False,
    ) -> None:
        max_kv_bytes = kv_bytes_of(model.device) if max_kv_bytes is None else max_kv_bytes
        bounds = {
            "max_rows": (max_rows, 1),
            "max_kv_bytes": (max_kv_bytes, 1),
            "max_prefill_tokens": (max_prefill_tokens, 1),
            "max_prefix_bytes": (max_prefix_bytes, 0),
        }
        for name, (value, least) in bounds.items():
            if value < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")
        if speculation is not None and not model.shares_trunks:
            raise ConfigError(
                f"speculation needs a model that runs token forests; this one does not "
                f"({model.why_unshared}); leave speculation out"
            )
        self.model = model
        self.speculation = speculation
        self.in_flight = in_flight
        self.max_prefill_tokens = max_prefill_tokens
        self.weights_version = model.weights_version
        self.stats = Statistics()
        self.graphs = _graphs_of(model.device) if graphs == "auto" else graphs
        self._beside = beside
        max_kv_tokens = max_kv_bytes // max(self._bytes_per_token, 1)
        self._room: Room = beside._room if beside else Room(max_rows, max_kv_tokens)
        held: PrefixMemory = beside._prefixes.memory if beside else PrefixMemory(max_prefix_bytes)
        self._prefixes: PrefixTree = PrefixTree(held)
        parts = (model, self._prefixes, self.graphs, speculation, max_prefill_tokens)
        self._steppers = Steppers(*parts)
        self._schedule: Schedule | None = None  # while requests are open
        self._tickets: dict[int, Ticket] = {}
        self._finished: list[Finished] = []  # not yet given out by `step`
        self._next_ticket = 0

    @property
    def stop_ids(self) -> frozenset[int]:
        """Token ids that end every sample: those of the generation config and the tokenizer."""
        stop_ids: set[int] = set()
        config = getattr(self.model.hf, "generation_config", None)
        for holder in (config, self.model.tokenizer):
            ids = getattr(holder, "eos_token_id", None)
            if isinstance(ids, list | tuple):
                stop_ids |= set(ids)
            elif ids is not None:
                stop_ids.add(ids)
        return frozenset(stop_ids)

    @property
    def context_length(self) -> int | None:
        """Most tokens of a prompt and its sample together, None where there is no limit."""
        return self.model.context_length

    @property
    def num_open(self) -> int:
        """Requests that are neither finished nor aborted."""
        return len(self._tickets)

    @property
    def num_prefix_bytes(self) -> int:
        """Bytes that are held for later prompts."""
        return self._prefixes.num_bytes

    def sync(self, version: int) -> None:
        """The model object has new weights: forget what was cached with older ones.

        Raises:
            ConfigError: requests are open, and the engine is not `in_flight`.
        """
        if self._tickets and not self.in_flight:
            raise ConfigError(
                f"{len(self._tickets)} requests are open; finish or abort them before the weights "
                "change"
            )
        self.weights_version = version
        self._prefixes.clear()
        if self._schedule is not None:
            with torch.inference_mode():
                self._steppers.renew(self._schedule.stepper, version)

    def compile(self, constraint: Constraint) -> None:
        """Compile a constraint before a request has it. Another thread than the engine's may.

        Raises:
            ConfigError: it is not valid or too large; the model has no tokenizer, or one that
            cannot be read. MissingDependency: the extra constrained is not installed.
        """
        self._grammars.compiled(constraint)

    def submit(
        self,
        request: Request,
        on_tokens: OnTokens | None = None,
        on_logprobs: OnLogprobs | None = None,
    ) -> int:
        """Hand in a request; its ticket.

        Raises:
            DataError, ConfigError: see `check_requests`.
        """
        self._check([request])
        return self._open(Ticket(request, on_tokens, on_logprobs))

    def step(self) -> list[Finished]:
        """Write one token for every open row; the requests that finish with it.

        Whatever the model raises is raised here; all open requests are then aborted.
        """
        if self._tickets:
            with evaluating(self.model.hf), torch.inference_mode():
                self._advance()
        finished, self._finished = self._finished, []
        return finished

    def abort(self, ticket: int) -> None:
        """End a request without a result, and free its rows by the next step."""
        if ticket not in self._tickets:
            return
        assert self._schedule is not None
        opened = self._tickets.pop(ticket)
        self.stats.discarded_tokens += self._schedule.drop(ticket) + opened.num_tokens
        if not self._tickets:
            self._close()

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """Samples for each request, in order. Other open requests go on meanwhile.

        Raises:
            DataError, ConfigError: see `check_requests`.
        """
        self._check(requests)
        tickets = [self._open(Ticket(request)) for request in requests]
        try:
            with evaluating(self.model.hf), torch.inference_mode():
                while any(ticket in self._tickets for ticket in tickets):
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
        """Log-probs of ids[start:] at temperature 1, computed as the trainer computes them."""
        items = []
        for number, (ids, start) in enumerate(sequences):
            mask = np.arange(len(ids)) >= max(start, 1)
            items.append(TokenSequence(np.array(ids), mask, row=str(number)))
        by_row: dict[int, list[float]] = {}
        # One tree for all: what the sequences share is computed once; `split` keeps the memory in
        # bounds.
        batch = Batch([Tree.build(items)]) if items else Batch([])
        with evaluating(self.model.hf), torch.no_grad():
            for forest in batch.split(self.max_prefill_tokens):
                logprobs = self.model.forward(forest, frozenset({"logprobs"}))["logprobs"].cpu()
                counts = torch.bincount(forest.sequence, minlength=forest.num_sequences).tolist()
                for row, part in zip(forest.rows, logprobs.split(counts), strict=True):
                    by_row[int(row)] = part.tolist()
        return [by_row[i] for i in range(len(items))]

    def _take(self, tickets: Sequence[int]) -> list[Finished]:
        """The results of these tickets, which `step` then does not give out."""
        wanted = set(tickets)
        taken = [f for f in self._finished if f.ticket in wanted]
        self._finished = [f for f in self._finished if f.ticket not in wanted]
        return taken

    def _check(self, requests: Sequence[Request]) -> None:
        vocab_size = self.model.config.vocab_size
        check_requests(requests, vocab_size=vocab_size, context_length=self.context_length)
        if self.model.tokenizer is None and any(r.sampling.stop for r in requests):
            raise ConfigError("stop strings need a tokenizer and this model has none; use stop_ids")
        for constraint in {r.constraint for r in requests if r.constraint is not None}:
            self.compile(constraint)  # refused now if it is not valid

    def _open(self, opened: Ticket) -> int:
        """Queue the rows of a checked request."""
        if self._schedule is None:
            self._schedule = self._new_schedule()
        ticket = self._next_ticket
        self._next_ticket += 1
        self._tickets[ticket] = opened
        request = opened.request
        bound, constraint = Bound.of(request), request.constraint
        row = Row(
            ticket,
            0,
            request.prompt_ids,
            request.sampling,
            request.seed,
            self._limit(request),
            request.reuse,
            bound,
            num_top=request.num_top_logprobs,
        )
        rows = [replace(row, index=k, tail=[], top=[], begun=[]) for k in range(request.n)]
        if constraint is not None:
            rows = [replace(row, matcher=self._grammars.matcher(constraint)) for row in rows]
        self._schedule.add(rows)
        return ticket

    def _advance(self) -> None:
        """One step of the schedule, with its accounts."""
        schedule = self._schedule
        assert schedule is not None
        started = time.perf_counter()
        generated, prompted = schedule.num_generated, schedule.num_prompt_tokens
        computed = schedule.num_computed_tokens
        try:
            ended = schedule.step(self.weights_version)
        except BaseException:
            self._close()
            raise
        self.stats.generated_tokens += schedule.num_generated - generated
        self.stats.prompt_tokens += schedule.num_prompt_tokens - prompted
        self.stats.computed_tokens += schedule.num_computed_tokens - computed
        self.stats.reused_tokens = self.stats.prompt_tokens - self.stats.computed_tokens
        self.stats.seconds += time.perf_counter() - started
        listeners = {number: opened for number, opened in self._tickets.items() if opened.listens}
        news = schedule.newest(listeners) if listeners else []
        for row, sample in ended:
            self._tickets[row.ticket].add(row, sample)
        for ticket in dict.fromkeys(row.ticket for row, _ in ended):
            self._finish(ticket)
        for row, ids, logprobs in news:
            listeners[row.ticket].tell(row.index, ids, logprobs)

    def _finish(self, ticket: int) -> None:
        """Give out a request whose samples have all ended, or of which one has failed."""
        opened = self._tickets[ticket]
        if opened.error is not None:
            self.abort(ticket)
            self._finished.append(Finished(ticket, [], opened.error))
            return
        if len(opened.samples) < opened.request.n:
            return
        del self._tickets[ticket]
        self.stats.returned_tokens += opened.num_tokens
        samples = [opened.samples[k] for k in range(opened.request.n)]
        self._finished.append(Finished(ticket, samples, reused_tokens=opened.num_reused))
        if not self._tickets:
            self._close()

    def _close(self) -> None:
        """Free what open requests hold; those that are left are aborted."""
        if self._schedule is not None:
            for ticket, opened in self._tickets.items():
                self.stats.discarded_tokens += self._schedule.drop(ticket) + opened.num_tokens
            self._room.leave(self._schedule)
        self._tickets.clear()
        self._schedule = None
        if self.graphs is not None:
            self.graphs.release()

    def _new_schedule(self) -> Schedule:
        model = self.model
        vocab_size = model.config.vocab_size
        stops = Stops(self.stop_ids, model.tokenizer, lambda: self._texts, vocab_size, model.device)
        return Schedule(self._steppers.make(self.weights_version), stops, model.device, self._room)

    @cached_property
    def _texts(self) -> list[str]:
        return token_texts(self.model.tokenizer, self.model.config.vocab_size)

    @cached_property
    def _grammars(self) -> Grammars:
        if self._beside is not None:
            return self._beside._grammars
        if self.model.tokenizer is None:
            raise ConfigError(
                "a constraint needs a tokenizer and this model has none; leave it out"
            )
        return Grammars(self.model.tokenizer, self.model.config.vocab_size, self.stop_ids)

    def _limit(self, request: Request) -> int:
        context = self.model.context_length
        room = request.sampling.max_tokens if context is None else context - len(request.prompt_ids)
        return min(request.sampling.max_tokens, room)

    @property
    def _bytes_per_token(self) -> int:
        """Keys and values of one token in all layers."""
        config = self.model.config
        heads = getattr(config, "num_attention_heads", 0)
        if not heads:  # a recurrent model
            return 0
        depth = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        parameter = next(self.model.hf.parameters())
        # On a CPU the attention of fused layers is in float32, and so are its keys and values.
        size = (
            max(4, parameter.element_size())
            if parameter.device.type == "cpu"
            else parameter.element_size()
        )
        return 2 * config.num_hidden_layers * kv_heads * depth * size


def _graphs_of(device: torch.device) -> StepGraphs | None:
    return StepGraphs(CudaRecorder(device)) if device.type == "cuda" else None
