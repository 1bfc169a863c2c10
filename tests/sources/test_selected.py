"""Completions that were selected, as rows to imitate."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from posttrain.averages import Averages
from posttrain.sources.collect import trained
from posttrain.sources.selected import SelectedRows

GROUPS: Any = ["a group", "another"]


def source(number: int = 1, first: int = 6) -> SelectedRows:
    sampling = Averages()
    sampling.update({"reward": 0.5})
    return SelectedRows(
        [trained((1,), [10 + i], str(i)) for i in range(5)],
        batch_size=2,
        seed=3,
        number=number,
        first=first,
        groups=GROUPS,
        sampling=sampling,
    )


def written(source: SelectedRows, step: int) -> list[int]:
    (batch,) = source.batches(step)
    return [int(s.ids[-1]) for tree in batch.trees for s in tree.sequences]


def test_each_time_through_has_all_rows_in_an_order_of_its_own() -> None:
    rows = source()
    first = [written(rows, step) for step in (6, 7, 8)]
    second = [written(rows, step) for step in (9, 10, 11)]
    assert [len(batch) for batch in first] == [2, 2, 1]
    once, twice = (list(chain(*batches)) for batches in (first, second))
    assert sorted(once) == sorted(twice) == [10, 11, 12, 13, 14]
    order = np.random.default_rng((3, 1, 0)).permutation(5)
    assert once == [10 + i for i in order] != twice


def test_what_was_sampled_is_reported_with_the_first_step() -> None:
    rows = source()
    written(rows, 6)
    assert rows.groups == GROUPS and rows.metrics().means() == {"reward": 0.5, "round": 2.0}
    written(rows, 7)
    assert rows.groups == [] and rows.metrics().means() == {"round": 2.0}


def test_a_step_is_a_function_of_its_number() -> None:
    assert written(source(), 8) == [written(rows := source(), s) for s in (6, 7, 8)][2]
    assert rows.state() == {}


def test_an_update_raises_the_weights_version() -> None:
    class Model:
        weights_version = 4

    model = Model()
    source().updated(model)
    assert model.weights_version == 5
