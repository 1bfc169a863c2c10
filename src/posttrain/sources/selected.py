"""Completions that were selected, as rows to imitate: the source of a round of self-training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from posttrain.averages import Averages
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.types import TraceGroup


class SelectedRows:
    """Batches of the rows of a round, shuffled anew each time through.

    The order is a function of (seed, round, time through); the last batch of a time through may
    have fewer rows.

    Args:
        rows: what is trained on. batch_size: rows per update.
        groups: what the round sampled, reported with its first step. sampling: metrics of that.
        number: of the round, from 0. first: steps before the round.
    """

    def __init__(
        self,
        rows: Sequence[TokenSequence],
        *,
        batch_size: int,
        seed: int,
        number: int,
        first: int,
        groups: Sequence[TraceGroup] = (),
        sampling: Averages | None = None,
    ) -> None:
        self.rows = list(rows)
        self.batch_size, self.seed = batch_size, seed
        self.number, self.first = number, first
        self.sampled = list(groups)
        self.sampling = sampling or Averages()
        self.groups: list[TraceGroup] = []
        self._averages = Averages()

    def batches(self, step: int) -> Iterator[Batch]:
        """One batch of selected completions."""
        place = step - self.first
        self.groups = self.sampled if place == 0 else []
        self._averages = Averages()
        if place == 0:
            self._averages.merge(self.sampling)
        self._averages.update({"round": float(self.number + 1)})
        epoch, place = divmod(place, math.ceil(len(self.rows) / self.batch_size))
        order = np.random.default_rng((self.seed, self.number, epoch)).permutation(len(self.rows))
        chosen = order[place * self.batch_size : (place + 1) * self.batch_size]
        yield Batch([Tree.build([self.rows[i]]) for i in chosen])

    def updated(self, model: Any) -> None:
        """Nothing samples while a round trains; the next one has to see that the weights moved."""
        model.weights_version += 1

    def metrics(self) -> Averages:
        return self._averages

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """There is none: the rows are those of the round's file."""
