"""Prompts that begin in the middle of old completions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import lines, write

import posttrain as pt
from posttrain.errors import ConfigError, DataError

ROWS: list[dict[str, Any]] = [
    {"prompt": "Q", "completion": " a\nb\nc", "reward": 1.0, "answer": "1", "id": "x"},
    {"prompt": "Q", "completion": " d\ne\n", "reward": 0.0, "answer": "1", "id": "x"},
    {"prompt": "Q", "completion": " f\ng", "reward": 0.0, "answer": "1", "id": "x"},
    {"prompt": "R", "completion": " one line", "reward": 1.0, "answer": "2", "id": "y"},
]


def test_restarts_begin_behind_a_step_that_is_not_the_last(tmp_path: Path) -> None:
    rows = pt.restarts(None, ROWS, marker="Wait.\n", max_per_prompt=3, fresh_share=0.0)
    begun = {(row["prompt"], row["origin_reward"]) for row in rows}
    assert {p for p, r in begun if r == 0.0} == {"Q d\nWait.\n", "Q f\nWait.\n"}
    assert {p for p, r in begun if r == 1.0} <= {"Q a\nWait.\n", "Q a\nb\nWait.\n"}
    assert len(rows) == 3 and len({row["id"] for row in rows}) == 3
    assert all(row["answer"] == "1" for row in rows)


def test_wrong_and_right_ones_take_turns_and_some_prompts_are_fresh() -> None:
    rows = pt.restarts(None, ROWS, max_per_prompt=2, fresh_share=1.0)
    assert sorted(str(row["origin_reward"]) for row in rows) == ["0.0", "1.0", "None", "None"]
    assert {row["prompt"] for row in rows if row["origin_reward"] is None} == {"Q", "R"}
    assert rows == pt.restarts(None, ROWS, max_per_prompt=2, fresh_share=1.0)
    assert rows != pt.restarts(None, ROWS, max_per_prompt=2, fresh_share=1.0, seed=1)


def test_a_recipe_writes_rows_that_task_jsonl_reads(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    data = write(tmp_path / "rows.jsonl", ROWS)
    folder = run_recipe(method="restarts", data=data, max_per_prompt=3)
    assert len(lines(folder / "samples.jsonl")) == 4
    task = pt.task.jsonl(path=str(folder / "samples.jsonl"), extractor="hash")
    assert task.score("b\n#### 1", task.examples[0]) in (0.0, 1.0)
    assert {e.columns["origin_reward"] for e in task.examples} == {0.0, 1.0, None}


@pytest.mark.parametrize(
    "change", [{"step_separator": ""}, {"max_per_prompt": 0}, {"fresh_share": 1.5}]
)
def test_wrong_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        pt.restarts(None, ROWS, **change)


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": "Q", "completion": "a\nb", "reward": 1.0}],
        [{"prompt": [], "completion": "a\nb", "reward": 1.0, "answer": "1"}],
        [ROWS[3]],
    ],
)
def test_rows_that_cannot_be_restarted_are_refused(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError):
        pt.restarts(None, rows)
