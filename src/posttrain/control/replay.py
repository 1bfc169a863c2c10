"""Transitions that were seen, or predicted, and samples of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from posttrain.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True)
class Transitions:
    """A batch. states, next_states: [B, D]. actions: [B, A]. rewards, ends: [B]; ends is 1 where
    the next state is terminal, whose value is 0. All float32.
    """

    states: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_states: torch.Tensor
    ends: torch.Tensor

    def __len__(self) -> int:
        return len(self.states)


class Replay:
    """The last transitions, in a ring.

    Args:
        capacity: transitions that are held. num_states: D. num_actions: A.
    """

    _COLUMNS = ("states", "actions", "rewards", "next_states", "ends")

    def __init__(self, capacity: int, num_states: int, num_actions: int) -> None:
        if capacity < 1:
            raise ConfigError(f"capacity is {capacity}; a replay holds at least 1 transition")
        widths = {
            "states": (num_states,),
            "actions": (num_actions,),
            "rewards": (),
            "next_states": (num_states,),
            "ends": (),
        }
        self.capacity = capacity
        self.size = self.next = 0
        self.columns = {
            name: torch.zeros(capacity, *widths[name], dtype=torch.float32)
            for name in self._COLUMNS
        }

    def __len__(self) -> int:
        return self.size

    def add(self, **columns: ArrayLike) -> None:
        """Put rows behind the others; the oldest make room. Each column is [n] or [n, width]."""
        values = {
            name: torch.as_tensor(np.asarray(columns[name]), dtype=torch.float32)
            for name in self._COLUMNS
        }
        count = len(values["states"])
        if count > self.capacity:
            raise DataError(f"{count} transitions do not fit into a replay of {self.capacity}")
        places = (self.next + torch.arange(count)) % self.capacity
        for name, rows in values.items():
            self.columns[name][places] = rows.reshape(count, *self.columns[name].shape[1:])
        self.next = (self.next + count) % self.capacity
        self.size = min(self.capacity, self.size + count)

    def sample(self, count: int, draw: np.random.Generator) -> Transitions:
        """A batch [count], with replacement.

        Raises:
            DataError: the replay is empty.
        """
        if not self.size:
            raise DataError("the replay is empty; collect transitions before the first update")
        places = torch.from_numpy(draw.integers(0, self.size, count))
        return Transitions(*(self.columns[name][places] for name in self._COLUMNS))

    def state(self) -> dict[str, Any]:
        """What `restore` takes: the rows that are held."""
        rows = {name: column[: self.size].clone() for name, column in self.columns.items()}
        return {"size": self.size, "next": self.next, "rows": rows}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` described."""
        self.size, self.next = state["size"], state["next"]
        for name, rows in state["rows"].items():
            self.columns[name][: self.size] = rows
