"""The embedded engine: samples with the very model that is trained, on any device torch runs on."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.engines.base import Finished, OnTokens, check_requests
from posttrain.engines.decode import KeyValues
from posttrain.engines.schedule import Row, Schedule
from posttrain.engines.stepping import (
    CacheStepper,
    ForestStepper,
    Stepper,
    matching_decoder,
)
from posttrain.engines.stops import Stops, token_texts
from posttrain.errors import ConfigError
from posttrain.kernels.columns import ColumnDecoder, weights_state
from posttrain.kernels.graphs import CudaRecorder, StepGraphs
from posttrain.models.forest_model import evaluating
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sample


@dataclass(slots=True)
class Statistics:
    """Tokens of an engine so far, and seconds in its steps.

    prompt: of the prompts of all rows, = computed + reused. computed: of prompts, by a forward
    pass. generated: written by rows, = returned + discarded as soon as nothing is open. returned:
    in finished requests. discarded: of aborted ones.
    """

    prompt_tokens: int = 0
    computed_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    returned_tokens: int = 0
    discarded_tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Ticket:
    """An open request. samples: those that have ended, by index."""

    request: Request
    on_tokens: OnTokens | None
    samples: dict[int, Sample] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Of the samples that have ended."""
        return sum(len(sample.ids) for sample in self.samples.values())


class TorchEngine:
    """Samples from a LanguageModel. An `Engine`.

    Each distinct prompt is computed once, however many samples continue it; finished rows leave the
    batch and waiting ones take their places, in the order of the prompts; a sample is a function of
    (weights, prompt, sampling, seed, index) and not of what else is in the batch, up to the
    rounding of matrix products of other shapes. The weights must not change while requests are
    open.

    Args:
        max_rows: samples decoded side by side. max_kv_bytes: of keys and values that those may come
        to hold (one row runs whatever it needs). max_prefill_tokens: of one prompt pass.
        cache_tokens: prompt tokens whose keys and values are cached for later calls (0 = none), for
        searches that come back to a prompt while the weights stay the same.
        graphs: repeats decoding steps from recordings (`kernels.graphs`); None = never, auto = on
        CUDA.

    Raises:
        ConfigError: a bound below 1 (cache_tokens: below 0).
    """

    def __init__(
        self,
        model: LanguageModel,
        *,
        max_rows: int = 256,
        max_kv_bytes: int = 4 << 30,
        max_prefill_tokens: int = 16384,
        cache_tokens: int = 0,
        graphs: StepGraphs | Literal["auto"] | None = "auto",
    ) -> None:
        bounds = {
            "max_rows": max_rows,
            "max_kv_bytes": max_kv_bytes,
            "max_prefill_tokens": max_prefill_tokens,
        }
        for name, value in bounds.items():
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1")
        if cache_tokens < 0:
            raise ConfigError(
                f"cache_tokens is {cache_tokens}; it must be at least 0 (0 keeps nothing)"
            )
        self.model = model
        self.max_rows = max_rows
        self.max_kv_bytes = max_kv_bytes
        self.max_prefill_tokens = max_prefill_tokens
        self.cache_tokens = cache_tokens
        self.weights_version = model.weights_version
        self.stats = Statistics()
        self.graphs = _graphs_of(model.device) if graphs == "auto" else graphs
        self._columns: tuple[list[object], ColumnDecoder | None] = ([], None)
        self._cache: OrderedDict[tuple[int, tuple[int, ...]], tuple[KeyValues, Tensor]] = (
            OrderedDict()
        )
        self._schedule: Schedule | None = None  # while requests are open
        self._tickets: dict[int, _Ticket] = {}
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

    def sync(self, version: int) -> None:
        """The model object has new weights: forget what was cached with older ones.

        Raises:
            ConfigError: requests are open.
        """
        if self._tickets:
            raise ConfigError(
                f"{len(self._tickets)} requests are open; finish or abort them before the weights "
                "change"
            )
        self.weights_version = version
        self._cache.clear()

    def submit(self, request: Request, on_tokens: OnTokens | None = None) -> int:
        """Hand in a request; its ticket.

        Raises:
            DataError, ConfigError: see `check_requests`.
        """
        self._check([request])
        return self._open(request, on_tokens)

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
        tickets = [self._open(request, None) for request in requests]
        try:
            with evaluating(self.model.hf), torch.inference_mode():
                while any(ticket in self._tickets for ticket in tickets):
                    self._advance()
        except BaseException:
            for ticket in tickets:
                self.abort(ticket)
            self._take(tickets)
            raise
        samples = {f.ticket: f.samples for f in self._take(tickets)}
        return [samples[ticket] for ticket in tickets]

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

    def _open(self, request: Request, on_tokens: OnTokens | None) -> int:
        """Queue the rows of a checked request."""
        if self._schedule is None:
            self._schedule = self._new_schedule()
        ticket = self._next_ticket
        self._next_ticket += 1
        self._tickets[ticket] = _Ticket(request, on_tokens)
        limit = self._limit(request)
        self._schedule.add(
            [
                Row(ticket, k, request.prompt_ids, request.sampling, request.seed, limit)
                for k in range(request.n)
            ]
        )
        return ticket

    def _advance(self) -> None:
        """One step of the schedule, with its accounts."""
        schedule = self._schedule
        assert schedule is not None
        started = time.perf_counter()
        generated, prompted = schedule.num_generated, schedule.num_prompt_tokens
        try:
            ended = schedule.step(self.weights_version)
        except BaseException:
            self._close()
            raise
        self.stats.generated_tokens += schedule.num_generated - generated
        self.stats.prompt_tokens += schedule.num_prompt_tokens - prompted
        self.stats.reused_tokens = self.stats.prompt_tokens - self.stats.computed_tokens
        self.stats.seconds += time.perf_counter() - started
        listeners = {k: t.on_tokens for k, t in self._tickets.items() if t.on_tokens is not None}
        news = schedule.newest(set(listeners)) if listeners else []
        for row, sample in ended:
            self._tickets[row.ticket].samples[row.index] = sample
            self._finish(row.ticket)
        for row, ids in news:
            listeners[row.ticket](row.index, ids)

    def _finish(self, ticket: int) -> None:
        """Give out a request whose samples have all ended."""
        opened = self._tickets[ticket]
        if len(opened.samples) < opened.request.n:
            return
        del self._tickets[ticket]
        self.stats.returned_tokens += opened.num_tokens
        samples = [opened.samples[k] for k in range(opened.request.n)]
        self._finished.append(Finished(ticket, samples))
        if not self._tickets:
            self._close()

    def _close(self) -> None:
        """Free what open requests hold; those that are left are aborted."""
        if self._schedule is not None:
            for ticket, opened in self._tickets.items():
                self.stats.discarded_tokens += self._schedule.drop(ticket) + opened.num_tokens
        self._tickets.clear()
        self._schedule = None
        if self.graphs is not None:
            self.graphs.release()

    def _new_schedule(self) -> Schedule:
        model = self.model
        vocab_size = model.config.vocab_size
        stops = Stops(self.stop_ids, model.tokenizer, lambda: self._texts, vocab_size, model.device)
        max_kv_tokens = self.max_kv_bytes // max(self._bytes_per_token, 1)
        return Schedule(
            self._stepper(),
            stops,
            model.device,
            max_rows=self.max_rows,
            max_kv_tokens=max_kv_tokens,
        )

    @cached_property
    def _texts(self) -> list[str]:
        return token_texts(self.model.tokenizer, self.model.config.vocab_size)

    def _limit(self, request: Request) -> int:
        context = self.model.context_length
        room = request.sampling.max_tokens if context is None else context - len(request.prompt_ids)
        return min(request.sampling.max_tokens, room)

    def _stepper(self) -> Stepper:
        if self.model.shares_trunks:
            columns = self._column_decoder() if self.graphs is None else None
            return ForestStepper(self.model, self.prefill, columns, self.graphs)
        return CacheStepper(self.model, self._computed)

    def _column_decoder(self) -> ColumnDecoder | None:
        """The decoder in columns of the weights as they are now, where the model has one."""
        state = [self.weights_version, *weights_state(self.model.pretrained)]
        if state != self._columns[0]:
            self._columns = (state, matching_decoder(self.model))
        return self._columns[1]

    def _computed(self, tokens: int) -> None:
        self.stats.computed_tokens += tokens

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

    def prefill(self, prompts: list[tuple[int, ...]]) -> list[tuple[KeyValues, Tensor]]:
        """Per prompt, each layer's keys and values and the last hidden state [D]. Shared
        beginnings are computed once.
        """
        version = self.weights_version
        prefilled = {p: self._cache[version, p] for p in prompts if (version, p) in self._cache}
        for p in prefilled:
            self._cache.move_to_end((version, p))
        missing = [p for p in prompts if p not in prefilled]
        for part in _portions(missing, self.max_prefill_tokens):
            sequences = [TokenSequence(np.array(p), np.zeros(len(p), dtype=bool)) for p in part]
            tree = Tree.build(sequences)
            hidden, plan = self.model.prefill(Forest.pack([tree]))
            self._computed(tree.num_tokens)
            first = self.model.num_virtual_tokens  # before all others, and seen by all
            for p, last in zip(part, tree.last.tolist(), strict=True):
                seen = np.flatnonzero(tree.ends[: last + 1] > last)
                path = torch.from_numpy(np.concatenate([np.arange(first), first + seen])).to(
                    hidden.device
                )
                kv = [
                    (k[0].index_select(1, path), v[0].index_select(1, path))
                    for _, (k, v) in sorted(plan.kv.items())
                ]
                prefilled[p] = (
                    kv,
                    hidden[last].clone(),
                )  # a view would keep all hidden states alive
        self._remember({p: prefilled[p] for p in missing})
        return [prefilled[p] for p in prompts]

    def _remember(self, fresh: dict[tuple[int, ...], tuple[KeyValues, Tensor]]) -> None:
        if not self.cache_tokens:
            return
        for p, value in fresh.items():
            self._cache[self.weights_version, p] = value
        while self._cache and sum(len(p) for _, p in self._cache) > self.cache_tokens:
            self._cache.popitem(last=False)


def _graphs_of(device: torch.device) -> StepGraphs | None:
    return StepGraphs(CudaRecorder(device)) if device.type == "cuda" else None


def _portions(prompts: list[tuple[int, ...]], budget: int) -> list[list[tuple[int, ...]]]:
    parts: list[list[tuple[int, ...]]] = []
    size = 0
    for p in prompts:
        if not parts or size + len(p) > budget:
            parts.append([])
            size = 0
        parts[-1].append(p)
        size += len(p)
    return parts
