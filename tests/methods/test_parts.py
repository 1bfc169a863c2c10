"""Rows that are made part by part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain.methods.parts import make_parts, remove_parts
from posttrain.training.ending import Interrupted


def made(some: Sequence[int], number: int) -> dict[str, Any]:
    return {"items": list(some), "number": number}


def test_every_item_is_in_one_part_in_order(tmp_path: Path) -> None:
    parts = make_parts(tmp_path, range(5), 2, made)
    assert [p["items"] for p in parts] == [[0, 1], [2, 3], [4]]
    assert [p["number"] for p in parts] == [0, 1, 2]
    assert make_parts(tmp_path / "none", [], 2, made) == []


def test_a_stopped_run_goes_on_after_the_last_whole_part(tmp_path: Path) -> None:
    asked: list[int] = []

    def stopping(some: Sequence[int], number: int) -> dict[str, Any]:
        asked.append(number)
        if number == 1 and asked.count(1) == 1:
            raise KeyboardInterrupt
        return made(some, number)

    with pytest.raises(Interrupted, match=str(tmp_path)):
        make_parts(tmp_path, range(5), 2, stopping)
    assert len(make_parts(tmp_path, range(5), 2, stopping)) == 3
    assert asked == [0, 1, 1, 2]


def test_a_number_that_json_has_not_is_an_error_and_no_part(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        make_parts(tmp_path, [1], 1, lambda some, number: {"x": float("nan")})
    assert list((tmp_path / "parts").iterdir()) == []


def test_parts_are_removed(tmp_path: Path) -> None:
    make_parts(tmp_path, [1], 1, made)
    (file,) = (tmp_path / "parts").iterdir()
    assert json.loads(file.read_text()) == {"items": [1], "number": 0}
    remove_parts(tmp_path)
    assert list(tmp_path.iterdir()) == []
