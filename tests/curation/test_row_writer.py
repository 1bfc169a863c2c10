"""Files of rows that are complete or absent."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import pytest

from posttrain.curation.row_writer import check_output, write_rows
from posttrain.errors import ConfigError


def test_rows_are_written_one_a_line(tmp_path: Path) -> None:
    place = tmp_path / "new" / "rows.jsonl"
    rows = [{"text": "é\n", "day": datetime.date(2026, 1, 2)}, {"n": 1}]
    assert write_rows(place, iter(rows)) == 2
    first, second = map(json.loads, place.read_text().splitlines())
    assert first == {"text": "é\n", "day": "2026-01-02"} and second == {"n": 1}


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    place = tmp_path / "rows.jsonl"
    write_rows(place, [{"a": 1}])

    def rows():
        yield {"b": 2}
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        write_rows(place, rows())
    assert json.loads(place.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_the_output_must_be_new_and_jsonl(tmp_path: Path) -> None:
    place = tmp_path / "rows.jsonl"
    place.write_text("")
    with pytest.raises(ConfigError):
        check_output(place)
    assert check_output(place, force=True) == place
    with pytest.raises(ConfigError):
        check_output(tmp_path / "rows.csv")
