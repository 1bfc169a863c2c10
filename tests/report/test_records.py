"""Words and orders that records derive from their fields."""

from __future__ import annotations

from pathlib import Path

from posttrain.report.records import Interval, Measured, RunFolder, StageRow, Summary


def test_problems_in_words() -> None:
    assert Measured("t", 200, 1, {}, {}, (), num_available=300).problems_text == (
        "200 of 300 problems"
    )
    assert Measured("t", 1200, 1, {}, {}, (), num_available=1200).problems_text == "1,200 problems"


def test_intervals_by_number_of_samples_ascend() -> None:
    value = Interval(0.5, 0.4, 0.6)
    intervals = {"accuracy": value, "pass@16": value, "pass@2": value, "maj@4": value}
    measured = Measured("t", 1, 16, intervals, {}, ())
    assert list(measured.by_k("pass")) == [2, 16] and list(measured.by_k("maj")) == [4]


def test_a_long_label_keeps_that_an_oracle_chose() -> None:
    row = StageRow("a very long title of a stage with a search", 0.5, 0.4, 0.6, oracle=True)
    assert row.short_label.endswith("… (oracle)") and len(row.short_label) == 28
    assert StageRow("Oracle of 8", 0.5, 0.4, 0.6, oracle=True).label == "Oracle of 8"


def test_titles() -> None:
    recipe = "# posttrain run r.yaml\ntitle: 'mine'\n"
    assert RunFolder(Path("runs/a"), recipe=recipe).title == "mine"
    assert RunFolder(Path("runs/a"), recipe=recipe).command == "posttrain run r.yaml"
    assert RunFolder(Path("runs/a")).title == "a"
    assert RunFolder(Path("a"), recipe=recipe, summary=Summary("table", "", ())).title == "table"
