"""Batches of a fixed data set."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.data.forest import TokenSequence
from posttrain.errors import DataError
from posttrain.sources.rows import DataSource, Singles


def sequences(count: int) -> list[TokenSequence]:
    return [
        TokenSequence(np.array([1, 2 + i]), np.array([False, True]), row=f"row {i}")
        for i in range(count)
    ]


def rows(source: DataSource, step: int) -> list[str]:
    (batch,) = source.batches(step)
    return list(batch.rows)


def test_an_epoch_sees_every_row_once_in_a_new_order() -> None:
    source = DataSource(Singles(sequences(20)), batch_size=6, seed=3)
    assert source.steps_per_epoch == 4
    orders = []
    for epoch in range(2):
        steps = [rows(source, 4 * epoch + i) for i in range(4)]
        assert [len(step) for step in steps] == [6, 6, 6, 2]
        seen = [row for step in steps for row in step]
        assert sorted(seen) == sorted(f"row {i}" for i in range(20))
        orders.append(seen)
    assert orders[0] != orders[1]


def test_the_order_of_the_rows_can_be_kept() -> None:
    source = DataSource(Singles(sequences(5)), batch_size=2, seed=3, shuffle=False)
    steps = [row for i in range(6) for row in rows(source, i)]
    assert steps == [f"row {i}" for i in range(5)] * 2


def test_a_step_depends_on_the_seed_and_the_step_alone() -> None:
    """So that a resume needs nothing else, and no state is saved."""
    one, two = (DataSource(Singles(sequences(9)), batch_size=2, seed=3) for _ in range(2))
    forward = [rows(one, step) for step in range(12)]
    assert [rows(two, step) for step in reversed(range(12))] == forward[::-1]
    other = DataSource(Singles(sequences(9)), batch_size=2, seed=4)
    assert [rows(other, step) for step in range(12)] != forward
    assert one.state() == {}


def test_the_metric_counts_epochs() -> None:
    source = DataSource(Singles(sequences(5)), batch_size=2, seed=0)
    shares = []
    for step in (0, 2, 3):
        rows(source, step)
        shares.append(source.metrics().means()["epoch"])
    assert shares == pytest.approx([1 / 3, 1.0, 4 / 3])


def test_a_group_is_one_tree_and_stays_whole() -> None:
    pair = sequences(2)
    source = DataSource([pair, sequences(1)], batch_size=2, seed=0, whole="tree")
    (batch,) = source.batches(0)
    assert sorted(tree.num_sequences for tree in batch.trees) == [1, 2]
    assert batch.whole == "tree" and batch.num_targets == 3


def test_singles_are_groups_of_one() -> None:
    some = sequences(3)
    singles = Singles(some)
    assert len(singles) == 3 and singles[1] == [some[1]]
    assert [group[0].row for group in singles] == ["row 0", "row 1", "row 2"]


def test_no_rows_are_refused() -> None:
    with pytest.raises(DataError, match="no row"):
        DataSource([], batch_size=2, seed=0)
