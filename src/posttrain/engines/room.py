"""How many rows decode side by side, and how much memory they may come to need."""

from __future__ import annotations

import torch


def kv_bytes_of(device: torch.device) -> int:
    """Bytes of keys and values that running rows may hold by default: a quarter of a CUDA device's
    memory, 4 GiB elsewhere.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 4
    return 4 << 30


class Room:
    """The bounds of one schedule, or of several together.

    Args:
        max_rows: decoded at once. max_kv_tokens: tokens whose keys and values these rows may come
        to hold, at their longest. One row of each schedule runs whatever it needs, so that none
        waits for the others for ever.
    """

    def __init__(self, max_rows: int, max_kv_tokens: int) -> None:
        self.max_rows, self.max_kv_tokens = max_rows, max_kv_tokens
        self._held: dict[object, tuple[int, int]] = {}

    def admits(self, schedule: object, num_rows: int, num_tokens: int) -> bool:
        """Whether a schedule may have so many rows and tokens in all."""
        if num_rows == 1:
            return True
        others = [held for holder, held in self._held.items() if holder is not schedule]
        rows = num_rows + sum(count for count, _ in others)
        tokens = num_tokens + sum(count for _, count in others)
        return rows <= self.max_rows and tokens <= self.max_kv_tokens

    def hold(self, schedule: object, num_rows: int, num_tokens: int) -> None:
        """Note what a schedule has."""
        self._held[schedule] = (num_rows, num_tokens)

    def leave(self, schedule: object) -> None:
        """A schedule has ended."""
        self._held.pop(schedule, None)
