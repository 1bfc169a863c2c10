"""Which rows decode side by side: finished ones leave, waiting ones join, and the text of each is
collected at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from posttrain.engines.sampling import RowSettings, choose, row_keys, uniforms
from posttrain.engines.stepping import Prompt, Stepper
from posttrain.engines.stops import Stops
from posttrain.types import Sample, Sampling

_REFILL = 0.8
"""Rows leave and join when at most this share of the batch still runs, so that the copies pay."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sample to be written: its request and index there, its prompt, its settings, its seed,
    and the most tokens it may have.
    """

    request: int
    index: int
    prompt: Prompt
    sampling: Sampling
    seed: int
    limit: int


class Schedule:
    """Decodes rows to their ends.

    Args:
        rows: equal prompts side by side. max_rows: decoded at once. max_kv_tokens: tokens whose
        keys and values these rows may come to hold, at their longest; one row runs whatever it
        needs.
    """

    def __init__(
        self,
        stepper: Stepper,
        rows: Sequence[Row],
        stops: Stops,
        device: torch.device,
        *,
        max_rows: int,
        max_kv_tokens: int,
    ) -> None:
        self.rows = rows
        self.decoded_tokens = 0
        self._stepper = stepper
        self._stops = stops
        self._device = device
        self._max_rows, self._max_kv_tokens = max_rows, max_kv_tokens
        self._settings = RowSettings.of([row.sampling for row in rows], device)
        self._keys = row_keys(
            np.array([row.seed % 2**64 for row in rows], dtype=np.uint64),
            np.array([row.index for row in rows]),
        )
        self._limits = np.array([row.limit for row in rows])
        self._length = np.zeros(len(rows), dtype=np.int64)
        self._waiting = 0  # the first row that has not begun
        # Per line of the batch: its row, and how many tokens it has written.
        self._alive = np.zeros(0, dtype=np.int64)
        self._at = np.zeros(0, dtype=np.int64)
        # Per step and line: row, place in the row's text; token, its log-prob as sampled and raw.
        self._history: list[tuple[np.ndarray, np.ndarray]] = []
        self._drawn: list[tuple[Tensor, Tensor, Tensor]] = []

    def run(self, weights_version: int) -> list[Sample]:
        """A sample per row, in order."""
        logits = torch.cat(self._join())
        settings, alive = self._lines()
        running = np.ones(len(self._alive), dtype=bool)
        while len(self._alive):
            draws = torch.from_numpy(uniforms(self._keys[self._alive], self._at)).to(self._device)
            tokens, sampled, raw = choose(logits, settings, draws)
            self._history.append((self._alive, self._at))
            self._drawn.append((tokens, sampled, raw))
            self._at = self._at + 1
            self._length[self._alive[running]] += 1
            self.decoded_tokens += int(running.sum())
            running = (
                running
                & ~self._stops.after(alive, tokens, running)
                & (self._at < self._limits[self._alive])
            )
            if running.sum() > _REFILL * len(running):
                logits = self._stepper.step(tokens)
                continue
            remaining = np.flatnonzero(running)
            lines = torch.from_numpy(remaining).to(self._device)
            self._stepper.keep(lines)
            self._alive, self._at = self._alive[remaining], self._at[remaining]
            parts = [self._stepper.step(tokens[lines])] if len(remaining) else []
            parts += self._join()
            if parts:
                logits = torch.cat(parts)
            settings, alive = self._lines()
            running = np.ones(len(self._alive), dtype=bool)
        return self._collect(weights_version)

    def _lines(self) -> tuple[RowSettings, Tensor]:
        alive = torch.from_numpy(self._alive).to(self._device)
        return self._settings.select(alive), alive

    def _join(self) -> list[Tensor]:
        """Begin as many waiting rows as there is room for; their logits [new, V] where there
        are any.
        """
        resident = {self.rows[i].prompt for i in self._alive.tolist()}
        longest = max((len(p) for p in resident), default=0)
        limit = int(self._limits[self._alive].max()) if len(self._alive) else 0
        stop = self._waiting
        while stop < len(self.rows) and len(self._alive) + stop - self._waiting < self._max_rows:
            row = self.rows[stop]
            resident.add(row.prompt)
            longest, limit = max(longest, len(row.prompt)), max(limit, row.limit)
            count = len(self._alive) + stop - self._waiting + 1
            if count > 1 and len(resident) * longest + count * limit > self._max_kv_tokens:
                break
            stop += 1
        new = range(self._waiting, stop)
        if not new:
            return []
        self._waiting = stop
        self._alive = np.concatenate([self._alive, np.arange(new.start, new.stop)])
        self._at = np.concatenate([self._at, np.zeros(len(new), dtype=np.int64)])
        return [
            self._stepper.join(
                [self.rows[i].prompt for i in new], [self.rows[i].limit for i in new]
            )
        ]

    def _collect(self, weights_version: int) -> list[Sample]:
        """Samples from what each step wrote; lists are built once, at the end."""
        if not self._history:
            return []
        row, at = (np.concatenate([h[i] for h in self._history]) for i in (0, 1))
        columns = [torch.cat([drawn[i] for drawn in self._drawn]).cpu().numpy() for i in range(3)]
        # A finished row runs along until the batch is next refilled; what it drew after its end
        # does not count.
        remaining = np.flatnonzero(at < self._length[row])
        order = remaining[np.argsort(row[remaining], kind="stable")]
        ids, sampled, raw = (column[order].tolist() for column in columns)
        ends = self._length.cumsum().tolist()
        return [
            Sample(
                ids[start:end],
                sampled[start:end],
                raw[start:end],
                "stop" if r in self._stops.stopped else "length",
                self._stops.stopped.get(r),
                weights_version,
            )
            for r, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
        ]
