"""The table of a pipeline on the terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from posttrain.report.records import StageRow
from posttrain.report.tables import (
    oracles,
    p_text,
    percent,
    print_summary,
    searches,
    time_text,
    verdicts,
)


def printed(folder: Path, width: int) -> list[str]:
    file = io.StringIO()
    print_summary(folder, Console(file=file, width=width))
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_fits_and_keeps_the_numbers(folder: Path, width: int) -> None:
    lines = printed(folder, width)
    table = lines[1:6]
    assert all(len(line) <= width for line in table)
    for line, stage, accuracy in zip(
        table[1:], ("base", "SFT", "GRPO", "GRPO + vote"), ("17.1", "32.4", "58.7", "71.3")
    ):
        assert line.startswith(stage)
        assert f"{accuracy}%" in line
    if width >= 60:
        assert "14.1% to 20.1%" in table[1]
        assert "< 0.001" in table[2]
    if width >= 80:
        assert all(name in table[0] for name in ("p (paired)", "pass@16", "tokens", "time"))
    assert lines[6] == "Every stage is better than the previous one (paired, p < 0.05)."


def test_nothing_for_a_run_without_stages(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("method: sft\n")
    assert printed(tmp_path, 80) == []


def test_verdicts_do_not_flatter() -> None:
    rows = [
        StageRow("base", 0.5, 0.4, 0.6),
        StageRow("SFT", 0.3, 0.2, 0.4, 0.0001),
        StageRow("GRPO", 0.32, 0.22, 0.42, 0.4),
    ]
    assert verdicts(rows) == [
        "SFT is worse than base (-20.0 points, p < 0.001).",
        "GRPO is not significantly different from SFT (+2.0 points, p = 0.400).",
    ]
    assert verdicts(rows[:1]) == []


def test_small_texts() -> None:
    assert [p_text(v) for v in (None, 0.0001, 0.0123)] == ["", "< 0.001", "0.012"]
    assert [time_text(v) for v in (None, 12.4, 89, 163, 7260)] == [
        "",
        "12 s",
        "89 s",
        "3 min",
        "2 h 01 min",
    ]
    assert [percent(v) for v in (None, 0.1234)] == ["", "12.3%"]


def test_an_oracle_is_named_and_no_result() -> None:
    title = "GRPO with a long title + best of 8"
    rows = [
        StageRow("SFT", 0.3, 0.2, 0.4),
        StageRow(
            "best",
            0.9,
            0.8,
            1.0,
            0.0001,
            oracle=True,
            num_samples=8,
            search="best_of_n (num_samples 8); scorer oracle",
        ),
        StageRow("GRPO", 0.5, 0.4, 0.6, 0.0001),
        StageRow("GRPO + vote", 0.6, 0.5, 0.7, 0.0001),
        StageRow(title, 0.95, 0.9, 1.0, 0.0001, oracle=True),
    ]
    # Only GRPO and the vote are compared: an oracle stands between the others, so "every stage"
    # would be too much.
    assert verdicts(rows) == ["GRPO + vote is better than GRPO (+10.0 points, p < 0.001)."]
    assert [r.label for r in rows[1:3]] == ["best (oracle)", "GRPO"]
    assert (
        rows[4].label == f"{title} (oracle)"
        and rows[4].short_label == "GRPO with a long t… (oracle)"
    )
    assert StageRow("oracle of 8", 1, 1, 1, oracle=True).label == "oracle of 8"
    assert searches(rows) == ["best (oracle): best_of_n (num_samples 8); scorer oracle."]
    assert (
        oracles(rows)[0]
        == "best (oracle): the gold chose among 8 samples; no deployed system can reach this."
    )
    assert "among the candidates" in oracles(rows)[1]
