"""Where batches come from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from posttrain.averages import Averages
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.errors import DataError


class Source(Protocol):
    """Yields the batches of a step; each batch is one optimiser update."""

    def batches(self, step: int) -> Iterator[Batch]:
        """The batches of this step; a pure function of the step, the seed and `state()`."""
        ...

    def updated(self, model: Any) -> None:
        """Called after an update, so that the engine can take the new weights."""
        ...

    def metrics(self) -> Averages:
        """Metrics of the last step's batches."""
        ...

    def state(self) -> dict[str, Any]:
        """What a resume needs beyond the step, as JSON."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        ...


class Singles(Sequence[Sequence[TokenSequence]]):
    """Each sequence as a group of one, built when it is read."""

    def __init__(self, sequences: Sequence[TokenSequence]) -> None:
        self._sequences = sequences

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, index: Any) -> Any:
        return [self._sequences[index]]


class DataSource:
    """Batches of a fixed data set, shuffled anew each epoch.

    The order is a function of (seed, epoch), so that resuming needs the step alone.

    Args:
        groups: what is shuffled: sequences of one group share a tree (a row alone, or the two of a
        preference pair).
        batch_size: groups a step; the last step of an epoch may have fewer. whole: what is never
        split, as in `Batch`. shuffle: draw a new order for each epoch; else keep that of the
        groups.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[TokenSequence]],
        *,
        batch_size: int,
        seed: int,
        whole: Literal["tree", "batch"] | None = None,
        shuffle: bool = True,
    ) -> None:
        if not groups:
            raise DataError("there is no row to train on")
        self.groups = groups
        self.batch_size = batch_size
        self.seed = seed
        self.whole = whole
        self.shuffle = shuffle
        self.steps_per_epoch = math.ceil(len(groups) / batch_size)
        self._averages = Averages()
        self._order: tuple[int, np.ndarray] | None = None

    def batches(self, step: int) -> Iterator[Batch]:
        yield self.batch(self.drawn(step))

    def batch(self, groups: Sequence[Sequence[TokenSequence]]) -> Batch:
        """Groups as a batch."""
        return Batch([Tree.build(group) for group in groups], whole=self.whole)

    def drawn(self, step: int) -> list[Sequence[TokenSequence]]:
        """The groups of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            draw = np.random.default_rng((self.seed, epoch))
            number = len(self.groups)
            self._order = (epoch, draw.permutation(number) if self.shuffle else np.arange(number))
        chosen = self._order[1][place * self.batch_size : (place + 1) * self.batch_size]
        self._averages = Averages()
        self._averages.add("epoch", (step + 1) / self.steps_per_epoch)
        return [self.groups[i] for i in chosen]

    def updated(self, model: Any) -> None:
        """Nothing samples here."""

    def metrics(self) -> Averages:
        return self._averages

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """There is none."""
