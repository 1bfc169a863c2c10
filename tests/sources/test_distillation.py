"""Which step is written by whom."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from posttrain.data.forest import TokenSequence
from posttrain.sources.distillation import DistillSource
from posttrain.sources.rows import DataSource


def source(lmbda: float, *, seq_kd: bool = False, seed: int = 0, data: Any = None) -> DistillSource:
    return DistillSource(
        data=data, student=None, teacher=None, lmbda=lmbda, seq_kd=seq_kd, seed=seed
    )


@pytest.mark.parametrize(
    ("lmbda", "seq_kd", "writer"),
    [(0.0, False, "data"), (0.0, True, "teacher"), (1.0, False, "student"), (1.0, True, "student")],
)
def test_the_ends_of_the_range(lmbda: float, seq_kd: bool, writer: str) -> None:
    assert {source(lmbda, seq_kd=seq_kd).writer(step) for step in range(50)} == {writer}


def test_the_share_of_the_students_steps() -> None:
    writers = [source(0.3).writer(step) for step in range(2000)]
    assert writers.count("student") / 2000 == pytest.approx(0.3, abs=0.04)
    assert set(writers) == {"student", "data"}


def test_a_step_depends_on_seed_and_step_alone() -> None:
    one, two, other = source(0.5), source(0.5), source(0.5, seed=1)
    forward = [one.writer(step) for step in range(60)]
    assert [two.writer(step) for step in reversed(range(60))] == forward[::-1]
    assert [other.writer(step) for step in range(60)] != forward
    assert one.state() == {}


def test_more_steps_are_the_students_with_a_greater_share() -> None:
    """A step that the student writes at a smaller share it also writes at a greater one."""
    few, many = source(0.2), source(0.6)
    for step in range(200):
        assert few.writer(step) != "student" or many.writer(step) == "student"


def test_rows_are_as_their_own_source_gives_them() -> None:
    rows = [
        [TokenSequence(np.array([1, i]), np.array([False, True]), row=str(i))] for i in range(5)
    ]
    data = DataSource(rows, batch_size=2, seed=4)
    mixed = source(0.0, data=DataSource(rows, batch_size=2, seed=4))
    for step in range(4):
        (one,), (two,) = data.batches(step), mixed.batches(step)
        assert list(one.rows) == list(two.rows)
        told = mixed.metrics().means()
        assert told["on_policy"] == 0.0 and told["epoch"] == data.metrics().means()["epoch"]
        assert mixed.groups == []
