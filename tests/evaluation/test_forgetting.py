"""The forgetting ledger: flips, intervals, files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from posttrain.errors import DataError
from posttrain.evaluation.forgetting import (
    Change,
    Divergence,
    Forgetting,
    read_forgetting,
)
from posttrain.evaluation.outcomes import Evaluation, Outcome
from posttrain.evaluation.statistics import Difference, Interval
from posttrain.evaluation.suites import graded_change, likelihood_change


def evaluation(correct: list[int], task: str = "sums") -> Evaluation:
    outcomes = [
        Outcome(str(i), f"{i}+{i}=", str(2 * i), [c], [str(c)], [3]) for i, c in enumerate(correct)
    ]
    return Evaluation(task, {}, 0, 1, outcomes)


def ledger() -> Forgetting:
    old = [
        graded_change(evaluation([1] * 12 + [0] * 4), evaluation([0] * 12 + [1] + [0] * 3)),
        likelihood_change("text", [10.0, 2.0], [10.1, 1.9], [8, 2]),
    ]
    new = [graded_change(evaluation([0] * 8, "new"), evaluation([1] * 8, "new"))]
    interval = Interval(0.02, 0.01, 0.03, 8)
    return Forgetting("a", "b", old, new, Divergence(interval, interval, interval))


def test_a_ledger_survives_its_file(tmp_path: Path) -> None:
    written = ledger()
    written.save(tmp_path)
    assert read_forgetting(tmp_path) == written


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_forgetting(tmp_path)
    (tmp_path / "forgetting.json").write_text("{}")
    with pytest.raises(DataError):
        read_forgetting(tmp_path)


def test_the_lines_of_a_report_name_what_is_significantly_worse() -> None:
    written = ledger()
    first, second = written.lines()
    assert "sums" in first
    assert "text" not in first
    assert "0.0200" in second


def test_p_values_are_adjusted_for_the_number_of_suites() -> None:
    written = ledger()
    raw = [change.difference.p_value for change in written.old]
    assert written.p_values() == pytest.approx([min(1.0, 2 * raw[0]), max(2 * raw[0], raw[1])])


def test_the_mean_loss_is_of_one_unit() -> None:
    d = Difference(-0.2, -0.3, -0.1, 0.01, 10)
    old = [Change("a", "accuracy", 0.5, 0.3, d), Change("b", "nats", 2.0, 1.8, d)]
    written = Forgetting("x", "y", old)
    assert written.mean_loss() == pytest.approx(0.2)
    assert written.mean_loss("nats") == pytest.approx(-0.2)
    assert math.isnan(Forgetting("x", "y", []).mean_loss())


def test_the_table_fits_eighty_columns() -> None:
    assert max(len(line) for line in str(ledger()).splitlines()) <= 80
