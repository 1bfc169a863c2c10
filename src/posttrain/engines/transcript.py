"""What the rows of a batch have written: token ids and their log-probs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Transcript:
    """Ids and log-probs by line and place, in host memory.

    Steps are recorded as the tensors that they gave. These are copied, many steps at a time, when
    a line is read or when lines come or leave, so that a step costs nothing here.

    Attributes:
        at: int64 [R], tokens that each line has recorded.
    """

    def __init__(self) -> None:
        self.at = np.zeros(0, dtype=np.int64)
        self._ids = np.zeros((0, 0), dtype=np.int64)
        self._logprobs = np.zeros((2, 0, 0))
        self._copied = self.at  # tokens of each line that the arrays hold
        self._pending: list[tuple[Tensor, Tensor, Tensor]] = []

    def append(self, tokens: Tensor, sampled: Tensor, raw: Tensor) -> None:
        """Record one more token per line: its id, its log-prob as sampled and raw, [R] each."""
        self._pending.append((tokens, sampled, raw))
        self.at = self.at + 1

    def join(self, count: int) -> None:
        """Add `count` lines that have written nothing."""
        self._settle()
        self.at = self._copied = np.concatenate([self.at, np.zeros(count, dtype=np.int64)])
        self._ids = np.pad(self._ids, ((0, count), (0, 0)))
        self._logprobs = np.pad(self._logprobs, ((0, 0), (0, count), (0, 0)))

    def keep(self, lines: np.ndarray) -> None:
        """Drop all lines but these, indices ascending."""
        self._settle()
        self.at = self._copied = self.at[lines]
        self._ids, self._logprobs = self._ids[lines], self._logprobs[:, lines]

    def ids(self, line: int, start: int, stop: int) -> list[int]:
        """The ids at places start to stop of a line."""
        self._settle()
        return self._ids[line, start:stop].tolist()

    def raw_logprobs(self, line: int, start: int, stop: int) -> list[float]:
        """The raw log-probs at places start to stop of a line."""
        self._settle()
        return self._logprobs[1, line, start:stop].tolist()

    def logprobs(self, line: int, stop: int) -> tuple[list[float], list[float]]:
        """The first log-probs of a line: as sampled, and raw."""
        self._settle()
        return self._logprobs[0, line, :stop].tolist(), self._logprobs[1, line, :stop].tolist()

    def _settle(self) -> None:
        """Copy the pending steps into the arrays."""
        if not self._pending:
            return
        columns = [
            torch.stack([step[i] for step in self._pending], 1).cpu().numpy() for i in range(3)
        ]
        needed, width = int(self.at.max()), self._ids.shape[1]
        if needed > width:
            more = max(needed, 2 * width) - width
            self._ids = np.pad(self._ids, ((0, 0), (0, more)))
            self._logprobs = np.pad(self._logprobs, ((0, 0), (0, 0), (0, more)))
        lines = np.arange(len(self.at))[:, None]
        places = self._copied[:, None] + np.arange(len(self._pending))
        self._ids[lines, places] = columns[0]
        self._logprobs[0][lines, places] = columns[1]
        self._logprobs[1][lines, places] = columns[2]
        self._copied = self.at
        self._pending = []
