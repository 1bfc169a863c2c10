"""Pairs from groups of samples: which two are taken, what is skipped and counted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from posttrain.averages import Averages
from posttrain.data.forest import TokenSequence
from posttrain.sources.preferences import PairSource, against_data, best_and_worst
from posttrain.types import Example, Sample, Trace, TraceGroup


def group(*traces: tuple[list[int], float | None], name: str = "e") -> TraceGroup:
    made = [
        Trace.of_sample(
            (1,), Sample(ids, [0.0] * len(ids), [0.0] * len(ids), "stop"), str(ids), reward=reward
        )
        for ids, reward in traces
    ]
    return TraceGroup(Example("p", id=name), (1, 2), made)


def test_the_best_is_chosen_and_the_worst_rejected() -> None:
    pair = best_and_worst(group(([5], 0.5), ([6, 7], 1.0), ([8], 0.0), ([9], 1.0)))
    assert pair is not None
    chosen, rejected = pair
    assert chosen.ids.tolist() == [1, 2, 6, 7] and rejected.ids.tolist() == [
        1,
        2,
        8,
    ]  # the first of those that tie
    assert chosen.loss_mask.tolist() == [False, False, True, True] and chosen.row == "e chosen"


def test_ties_failures_and_empty_completions_give_no_pair() -> None:
    assert best_and_worst(group(([5], 1.0), ([6], 1.0))) is None
    assert best_and_worst(group(([5], 1.0), ([6], None))) is None  # the reward of one failed
    assert best_and_worst(group(([5], 1.0), ([], 0.0))) is None
    assert best_and_worst(group(([5], 1.0), ([5], 0.0))) is None  # one text, two rewards
    assert best_and_worst(group(([5], 1.0))) is None


def test_self_play_rejects_what_the_model_wrote() -> None:
    written = {"e": TokenSequence(np.array([1, 2, 3, 4]), np.array([False, False, True, True]))}
    pair = against_data(written)(group(([7], None)))
    assert pair is not None and pair[0] is written["e"] and pair[1].ids.tolist() == [1, 2, 7]
    assert against_data(written)(group(([3, 4], None))) is None
    assert against_data(written)(group(([], None))) is None


def test_skipped_groups_are_counted_and_a_step_without_pairs_is_empty() -> None:
    class Collected:
        def __init__(self) -> None:
            self.groups: list[TraceGroup] = []

        def collect(self, step: int) -> list[TraceGroup]:
            seen.append((step, inside))
            return self.groups

        def metrics(self, groups: Any, step: int) -> Averages:
            return Averages()

    seen: list[Any] = []
    inside = False

    @contextlib.contextmanager
    def sampler() -> Iterator[None]:
        nonlocal inside
        inside = True
        yield
        inside = False

    collector: Any = Collected()
    source = PairSource(collector, best_and_worst, model=None, sampler=sampler)
    tie = group(([5], 1.0), ([6], 1.0))
    collector.groups = [tie, group(([5], 1.0), ([6], 0.0)), tie]
    (batch,) = source.batches(4)
    assert batch.whole == "tree" and batch.num_trees == 1 and batch.num_sequences == 2
    assert source.metrics().means() == {"pairs/skipped": 2.0, "pairs/trained": 1.0}
    collector.groups = [tie]
    assert list(source.batches(5)) == [] and source.metrics().means() == {
        "pairs/skipped": 1.0,
        "pairs/trained": 0.0,
    }
    assert seen == [(4, True), (5, True)]
