"""Pairs of completions of which the policy wrote one or both: the source of online DPO and of
self-play.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from posttrain.averages import Averages
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.sources.collect import Collector, Sampled, trained
from posttrain.types import Trace, TraceGroup

Pair = tuple[TokenSequence, TokenSequence]
"""Chosen and rejected."""


def as_sequence(group: TraceGroup, trace: Trace, role: str) -> TokenSequence:
    """A completion as one side of a pair."""
    return trained(group.prompt_ids, trace.sample.ids, f"{group.example.id} {role}")


def best_and_worst(group: TraceGroup) -> Pair | None:
    """The completions with the highest and the lowest reward, the first of those that tie; None
    where all rewards are equal.

    Completions without a reward or without a token are left out of the comparison.
    """
    rated = [(r.reward, r) for r in group.traces if r.reward is not None and r.sample.ids]
    if len({reward for reward, _ in rated}) < 2:
        return None
    best, worst = max(rated, key=lambda x: x[0])[1], min(rated, key=lambda x: x[0])[1]
    if best.sample.ids == worst.sample.ids:  # a judge may give one text two rewards
        return None
    return as_sequence(group, best, "chosen"), as_sequence(group, worst, "rejected")


def against_data(written: dict[str, TokenSequence]) -> Callable[[TraceGroup], Pair | None]:
    """Pairs of the data's completion (chosen) and the first sampled one; None where the two are the
    same.

    Args:
        written: example id -> prompt and worked completion.
    """

    def pair(group: TraceGroup) -> Pair | None:
        chosen = written[group.example.id]
        rejected = as_sequence(group, group.traces[0], "rejected")
        same = np.array_equal(chosen.ids, rejected.ids) or not rejected.loss_mask.any()
        return None if same else (chosen, rejected)

    return pair


class PairSource:
    """Samples groups, makes a pair of each that has one, and yields a batch of pairs a step.

    Groups without a pair (ties, equal completions) are skipped, and counted in the metric
    pairs/skipped; a step in which there is no pair updates nothing.

    Args:
        pair: group -> (chosen, rejected), or None. whole: as in `Batch`.
    """

    def __init__(
        self,
        collector: Collector | Sampled,
        pair: Callable[[TraceGroup], Pair | None],
        *,
        model: Any,
        whole: Any = "tree",
    ) -> None:
        self.collector = collector
        self.pair = pair
        self.model = model
        self.whole = whole
        self.groups: list[TraceGroup] = []
        self._averages = Averages()

    def batches(self, step: int) -> Iterator[Batch]:
        """The pairs of the completions that the step samples."""
        self.groups = self.collector.collect(step)
        self._averages = self.collector.metrics(self.groups, step)
        pairs = [pair for group in self.groups if (pair := self.pair(group)) is not None]
        self._averages.update(
            {"pairs/skipped": len(self.groups) - len(pairs), "pairs/trained": len(pairs)}
        )
        if pairs:
            yield Batch([Tree.build(pair) for pair in pairs], whole=self.whole)

    def updated(self, model: Any) -> None:
        """Tell the engine that the weights have moved."""
        model.weights_version += 1
        self._averages.update(self.collector.sync(model.weights_version))

    def metrics(self) -> Averages:
        return self._averages

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """There is none: what is sampled follows from the seed, the step and the weights."""
