"""`posttrain data` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.cli import main

ROWS = [{"prompt": f"question {i}", "completion": "word " * (i + 1)} for i in range(6)]


@pytest.fixture
def rows_file(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [*ROWS, ROWS[2]]))
    return str(path)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_report(rows_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    command = ["data", "report", rows_file, "--measure", "tokens", "--output", str(page)]
    assert main([*command, "threshold=0.9"]) == 0
    out = capsys.readouterr().out
    assert "7 rows" in out and "1 exact" in out and page.read_text().startswith("<!DOCTYPE html>")


def test_dedup_mix_and_filter(rows_file: str, tmp_path: Path) -> None:
    clean, mixed, short = (tmp_path / f"{n}.jsonl" for n in ("clean", "mixed", "short"))
    assert main(["data", "dedup", rows_file, "--output", str(clean), "near=false"]) == 0
    assert read(clean) == ROWS
    mix = ["data", "mix", str(clean), rows_file, "--output", str(mixed), "weights=[1,1]"]
    assert main([*mix, "num_rows=8", "easiest=completion_words"]) == 0
    lengths = [len(row["completion"]) for row in read(mixed)]
    assert len(lengths) == 8 and lengths == sorted(lengths)
    keep = ["data", "filter", str(clean), "--output", str(short)]
    assert main([*keep, "--where", "completion_words<=3"]) == 0
    assert read(short) == ROWS[:3]


@pytest.mark.parametrize(
    "wrong",
    [
        ["data", "dedupe", "x.jsonl"],
        ["data", "dedup", "x.jsonl"],
        ["data", "dedup", "x.jsonl", "--output", "o.jsonl", "--where", "tokens<3"],
        ["data", "report", "x.jsonl", "weights=[1]"],
        ["data", "report", "x.jsonl", "--output", "page.jsonl"],
        ["data", "report"],
    ],
)
def test_what_a_tool_does_not_take_is_refused(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert main(wrong) != 0
    except SystemExit as error:
        assert error.code not in (0, None)
