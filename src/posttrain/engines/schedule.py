"""Which rows decode side by side: rows join while others run, and leave when they end."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from posttrain.engines.bounds import Bound, over_quota, spend
from posttrain.engines.constraint import Matcher, masked, with_raw
from posttrain.engines.prefill import Prompt
from posttrain.engines.room import Room
from posttrain.engines.sampling import (
    RowSettings,
    SettingKinds,
    choose,
    row_keys,
    top_logprobs,
    uniforms,
)
from posttrain.engines.stepping import Stepper
from posttrain.engines.stops import Stops
from posttrain.engines.transcript import Transcript
from posttrain.types import FinishReason, Sample, Sampling, TopTokens, VersionSpan

_REFILL = 0.8
"""Rows leave and join when at most this share of the batch still runs, so that the copies pay."""


@dataclass(slots=True, eq=False)
class Row:
    """One sample to be written.

    ticket: of its request. index: its place among the request's samples. limit: the most tokens
    that it may have. reuse: whether later prompts may begin with its text. bound: what else may end
    it. matcher: follows its constraint. num_top: likeliest ids to report in the place of each
    token; top: those so far. kinds: of the settings of all rows that were added with it.
    num_computed: tokens of the prompt that were computed for this row, None before it has begun.
    tail: the newest ids, where stop strings are looked for. stop_string: the one that ended it.
    begun: versions of the weights that have written it, each with its first token.
    """

    ticket: int
    index: int
    prompt: Prompt
    sampling: Sampling
    seed: int
    limit: int
    reuse: bool = True
    bound: Bound | None = None
    matcher: Matcher | None = None
    num_top: int = 0
    top: list[TopTokens] = field(default_factory=list)
    kinds: SettingKinds = field(default_factory=SettingKinds)
    num_computed: int | None = None
    tail: list[int] = field(default_factory=list)
    begun: list[tuple[int, int]] = field(default_factory=list)
    stop_string: str | None = None


class Ended(NamedTuple):
    """A row that has ended, with what it wrote."""

    row: Row
    sample: Sample


class Schedule:
    """Decodes rows to their ends, a token per row and step.

    Args:
        room: bounds what is decoded at once; other schedules may share it.
    Attributes:
        stepper: computes the rows.
        num_generated: tokens that rows have written, those of rows that were dropped included.
        num_prompt_tokens: tokens of the prompts of all rows that have begun. num_computed_tokens:
        of these, those that were computed.
    """

    def __init__(
        self,
        stepper: Stepper,
        stops: Stops,
        device: torch.device,
        room: Room,
    ) -> None:
        self.num_generated = self.num_prompt_tokens = self.num_computed_tokens = 0
        self.stepper = stepper
        self._stops = stops
        self._device = device
        self._room = room
        self._added: list[Row] = []  # since the last step
        self._waiting: deque[Row] = deque()
        # By line of the batch. A row that has ended runs along until the batch is next refilled.
        self._rows: list[Row] = []
        self._running = np.zeros(0, dtype=bool)
        self._keys = np.zeros(0, dtype=np.uint64)
        self._limits = np.zeros(0, dtype=np.int64)
        self._written = Transcript()
        self._settings = RowSettings.of([], device)
        self._stop_kinds = torch.zeros(0, dtype=torch.int64, device=device)
        self._tokens = torch.zeros(0, dtype=torch.int64, device=device)
        self._version: int | None = None
        self._has_dropped = self._has_bounds = self._has_matchers = self._has_top = False
        self._wrote = np.zeros(0, dtype=bool)  # lines whose newest token is part of their sample

    @property
    def num_open(self) -> int:
        """Rows that have not ended."""
        return len(self._added) + len(self._waiting) + int(self._running.sum())

    def add(self, rows: Sequence[Row]) -> None:
        """Queue rows; they join at the next step if there is room."""
        self._added += rows
        self._has_matchers |= any(row.matcher is not None for row in rows)
        self._has_bounds |= any(row.bound is not None for row in rows)
        self._has_top |= any(row.num_top > 0 for row in rows)

    def drop(self, ticket: int) -> int:
        """End the rows of a ticket; the number of tokens that they have written."""
        self._added = [row for row in self._added if row.ticket != ticket]
        self._waiting = deque(row for row in self._waiting if row.ticket != ticket)
        is_dropped = np.array([row.ticket == ticket for row in self._rows], dtype=bool)
        is_dropped &= self._running
        self._running = self._running & ~is_dropped
        self._has_dropped |= bool(is_dropped.any())
        return int(self._written.at[is_dropped].sum())

    def step(self, weights_version: int) -> list[Ended]:
        """Write one token for every running row; the rows that end with it or before it."""
        self._take_version(weights_version)
        results = self._overdue(weights_version)
        logits = self._next_logits()
        if logits is None:
            return results
        if self._has_bounds:
            lines = over_quota((line, self._rows[line].bound) for line in self._lines())
            results += self._end(dict.fromkeys(lines, "budget"), weights_version)
        draws = torch.from_numpy(uniforms(self._keys, self._written.at)).to(self._device)
        matchers = self._matchers()
        tokens, sampled, raw = choose(masked(logits, matchers), self._settings, draws)
        raw = with_raw(raw, logits, tokens, matchers)
        self._written.append(tokens, sampled, raw)
        if self._has_top:
            self._report_top(logits)
        self._tokens = tokens
        self.num_generated += int(self._running.sum())
        self._wrote = self._running
        if self._has_bounds:
            spend(self._rows[line].bound for line in self._lines())
        stopped = self._stops.after(self._rows, self._stop_kinds, tokens, self._running)
        done = _accepted(matchers, tokens)
        stopped[[line for line in done if matchers[line].is_complete]] = True
        ended = self._running & (stopped | (self._written.at >= self._limits))
        ended[done] = True
        reasons: dict[int, FinishReason] = {
            line: "stop" if stopped[line] else "length" for line in np.flatnonzero(ended).tolist()
        }
        return results + self._end(reasons, weights_version)

    def _take_version(self, version: int) -> None:
        """Note the first token that rows will have from new weights."""
        if version == self._version:
            return
        self._version = version
        for line in self._lines():
            self._rows[line].begun.append((version, int(self._written.at[line])))

    def _report_top(self, logits: Tensor) -> None:
        """Note the likeliest ids of logits [R, V] for the running rows that report them."""
        lines = [line for line in self._lines() if self._rows[line].num_top]
        if not lines:
            return
        rows = [self._rows[line] for line in lines]
        count = max(row.num_top for row in rows)
        for row, top in zip(rows, top_logprobs(logits[lines], count), strict=True):
            row.top.append(top[: row.num_top])

    def newest(self, tickets: Collection[int]) -> list[tuple[Row, list[int], list[float]]]:
        """What rows of these tickets wrote in the last step, those that ended with it included:
        ids with raw log-probs.
        """
        written = self._written
        return [
            (row, written.ids(line, at - 1, at), written.raw_logprobs(line, at - 1, at))
            for line, (row, at) in enumerate(zip(self._rows, written.at.tolist(), strict=True))
            if self._wrote[line] and row.ticket in tickets
        ]

    def _lines(self) -> list[int]:
        """Lines that are running."""
        return np.flatnonzero(self._running).tolist()

    def _matchers(self) -> dict[int, Matcher]:
        """Those of running lines, by line."""
        if not self._has_matchers:
            return {}
        rows = {line: self._rows[line].matcher for line in self._lines()}
        return {line: matcher for line, matcher in rows.items() if matcher is not None}

    def _overdue(self, weights_version: int) -> list[Ended]:
        """End the rows, begun or not, that their bounds let write no more."""
        if not self._has_bounds:
            return []
        results = []
        for queue in (self._added, self._waiting):
            reasons = {row: row.bound.reason for row in queue if row.bound is not None}
            for row, reason in reasons.items():
                if reason is not None:
                    sample = Sample([], [], [], reason, None, weights_version)
                    results.append(Ended(row, sample))
                    queue.remove(row)
        begun = {line: self._rows[line].bound for line in self._lines()}
        ends = {line: bound.reason for line, bound in begun.items() if bound is not None}
        overdue = {line: reason for line, reason in ends.items() if reason is not None}
        return results + self._end(overdue, weights_version)

    def _end(self, reasons: Mapping[int, FinishReason], weights_version: int) -> list[Ended]:
        """End the rows of some lines; what they have computed is held for later prompts."""
        results = {line: self._ended(line, why, weights_version) for line, why in reasons.items()}
        self._running = self._running.copy()
        self._running[list(results)] = False
        texts = {
            line: (*row.prompt, *sample.ids) for line, (row, sample) in results.items() if row.reuse
        }
        if texts:
            self.stepper.store(texts)
        return list(results.values())

    def _ended(self, line: int, reason: FinishReason, weights_version: int) -> Ended:
        row, length = self._rows[line], int(self._written.at[line])
        ids = self._written.ids(line, 0, length)
        logprobs = self._written.logprobs(line, length)
        spans = _spans(row.begun, length)
        oldest = min((span.version for span in spans), default=weights_version)
        several = spans if len(spans) > 1 else ()
        sample = Sample(ids, *logprobs, reason, row.stop_string, oldest, row.top, several)
        return Ended(row, sample)

    def _next_logits(self) -> Tensor | None:
        """Compute what rows wrote last and let others join; logits [R, V], None without rows."""
        has_news = bool(self._added) or self._has_dropped
        if self._rows and not has_news and self._running.sum() > _REFILL * len(self._running):
            return self.stepper.step(self._tokens)
        self._queue()
        if not self._running.all():
            self._keep(np.flatnonzero(self._running))
        parts = [self.stepper.step(self._tokens)] if self._rows else []
        parts += self._join()
        self._arrange()
        return torch.cat(parts) if parts else None

    def _queue(self) -> None:
        """Let the rows that were added wait behind the others, equal prompts side by side."""
        number = {p: i for i, p in enumerate(dict.fromkeys(row.prompt for row in self._added))}
        self._added.sort(key=lambda row: (number[row.prompt], row.ticket, row.index))
        kinds = SettingKinds.of([row.sampling for row in self._added])
        for row in self._added:
            row.kinds = kinds
        self._waiting.extend(self._added)
        self._added = []

    def _keep(self, lines: np.ndarray) -> None:
        index = torch.from_numpy(lines).to(self._device)
        self.stepper.keep(index)
        self._written.keep(lines)
        self._rows = [self._rows[line] for line in lines.tolist()]
        self._keys, self._limits = self._keys[lines], self._limits[lines]
        self._running = self._running[lines]
        self._tokens, self._stop_kinds = self._tokens[index], self._stop_kinds[index]
        self._settings = self._settings.select(index)
        self._has_dropped = False

    def _join(self) -> list[Tensor]:
        """Begin as many waiting rows as there is room for; their logits [new, V] where there
        are any.
        """
        new = self._admitted()
        if not new:
            return []
        self._rows += new
        self._running = np.concatenate([self._running, np.ones(len(new), dtype=bool)])
        seeds = np.array([row.seed % 2**64 for row in new], dtype=np.uint64)
        keys = row_keys(seeds, np.array([row.index for row in new]))
        limits = [row.limit for row in new]
        self._keys = np.concatenate([self._keys, keys])
        self._limits = np.concatenate([self._limits, np.array(limits)])
        self._written.join(len(new))
        kinds = [self._stops.kind(row.sampling) for row in new]
        self._stop_kinds = torch.cat([self._stop_kinds, torch.tensor(kinds, device=self._device)])
        settings = RowSettings.of([row.sampling for row in new], self._device)
        self._settings = self._settings.joined(settings)
        joined = self.stepper.join([row.prompt for row in new], limits)
        assert self._version is not None  # `step` has taken it
        for row, computed in zip(new, joined.num_computed, strict=True):
            row.num_computed = computed
            row.begun = [(self._version, 0)]
        self.num_prompt_tokens += sum(len(row.prompt) for row in new)
        self.num_computed_tokens += sum(joined.num_computed)
        return [joined.logits]

    def _admitted(self) -> list[Row]:
        """The waiting rows that there is room for, taken from the queue."""
        resident = {row.prompt for row in self._rows}
        longest = max((len(p) for p in resident), default=0)
        limit = int(self._limits.max()) if len(self._limits) else 0
        count, tokens = len(self._rows), len(resident) * longest + len(self._rows) * limit
        new: list[Row] = []
        while self._waiting:
            row = self._waiting[0]
            resident.add(row.prompt)
            longest, limit = max(longest, len(row.prompt)), max(limit, row.limit)
            wanted = len(resident) * longest + (count + 1) * limit
            if not self._room.admits(self, count + 1, wanted):
                break
            count, tokens = count + 1, wanted
            new.append(self._waiting.popleft())
        self._room.hold(self, count, tokens)
        return new

    def _arrange(self) -> None:
        """Which kinds of settings there are. Rows that were added together count together, so
        that their log-probs do not depend on which of them have ended.
        """
        self._settings.kinds = SettingKinds.union([row.kinds for row in self._rows])


def _spans(begun: Sequence[tuple[int, int]], length: int) -> tuple[VersionSpan, ...]:
    """Which weights wrote which of `length` tokens. begun: versions, each with its first token."""
    ends = [*(start for _, start in begun[1:]), length]
    spans = [VersionSpan(version, start, end) for (version, start), end in zip(begun, ends)]
    return tuple(span for span in spans if span.start < span.end)


def _accepted(matchers: Mapping[int, Matcher], tokens: Tensor) -> list[int]:
    """Let matchers follow the newest tokens [R]; the lines whose text is done."""
    if matchers:
        newest = tokens.tolist()
        for line, matcher in matchers.items():
            matcher.accept(newest[line])
    return [line for line, matcher in matchers.items() if matcher.is_done]
