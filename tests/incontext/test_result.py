"""Numbers of a result by hand, its table and its files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.incontext.result import FILE, ROWS, Answered, InContext

ROWS_OF = (
    Answered("1", "x", "a", "a", (0.95, 0.05)),
    Answered("2", "y", "a", "b", (0.15, 0.85)),
    Answered("3", "z", "b", "b", (0.15, 0.85), shots=("7", "8")),
    Answered("4", "w", "a", None, (0.5, 0.5)),
)
RESULT = InContext("m", ("a", "b"), ROWS_OF, {"num_shots": 2})


def test_metrics_by_hand() -> None:
    assert RESULT.correct == [True, False, True, False]
    assert RESULT.accuracy().estimate == 0.5 and RESULT.accuracy().low < 0.5
    assert RESULT.majority() == 0.75 and RESULT.unparsed == 0.25
    assert RESULT.macro_recall() == pytest.approx((1 / 3 + 1) / 2)
    assert RESULT.confusion.tolist() == [[1, 1, 1], [0, 1, 0]]
    # Bins: .95 -> right; .85 twice, one right; .5 -> wrong.
    assert RESULT.ece() == pytest.approx((0.05 + abs(2 * 0.85 - 1) + 0.5) / 4)


def test_the_table_and_the_files(tmp_path: Path) -> None:
    text = str(RESULT)
    assert "50.0%" in text and "(none)" in text
    RESULT.save(tmp_path)
    whole = json.loads((tmp_path / FILE).read_text())
    assert whole["metrics"]["accuracy"]["n"] == 4 and whole["labels"] == ["a", "b"]
    lines = [json.loads(line) for line in (tmp_path / ROWS).read_text().splitlines()]
    assert lines[2]["shots"] == ["7", "8"] and lines[3]["prediction"] is None


def test_many_labels_have_no_table() -> None:
    labels = tuple(str(n) for n in range(20))
    rows = (Answered("1", "x", "3", "3", (0.05,) * 20),)
    assert FILE in str(InContext("m", labels, rows))
