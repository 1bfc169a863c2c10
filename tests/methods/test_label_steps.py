"""Rows for process models by Monte Carlo rollouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import checked

from posttrain.data.formats import detect_format
from posttrain.data.rows import load_rows
from posttrain.data.scored import encode_scores
from posttrain.errors import ConfigError
from posttrain.methods.label_steps import label_steps

TASK = {"name": "arithmetic", "num_examples": 6, "num_steps": 2}
EMBEDDED = {"path": "embedded", "dtype": "float32"}


def test_label_steps_writes_rows_for_process_models(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_tokenizer: Any
) -> None:
    raw = {
        "method": "label_steps",
        "model": EMBEDDED,
        "task": TASK,
        "num_solutions": 2,
        "num_rollouts": 2,
    }
    folder = run_recipe(**raw)
    rows = load_rows(folder / "samples.jsonl")
    told = json.loads((folder / "labels.json").read_text())
    assert detect_format(rows).name == "stepwise" and told["rows"] == len(rows) > 0
    assert all(r["labels"][-1] == r["correct"] for r in rows)
    assert encode_scores(rows, tiny_tokenizer, max_masked=1.0).num_trained == told["steps"]
    assert told["num_tokens"] == told["solution_tokens"] + told["rollout_tokens"]
    assert told["rollouts"] == 2 * (told["steps"] - told["rows"])
    again = run_recipe(**raw, output=str(tmp_path / "again"))
    assert (again / "samples.jsonl").read_text() == (folder / "samples.jsonl").read_text()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"labels": "soft", "search": "first_wrong_step"}, "labels"),
        ({"num_rollouts": 0}, "num_rollouts: 0"),
        ({"num_solutions": 0}, "num_solutions: 0"),
        ({"step_separator": ""}, "step_separator"),
    ],
)
def test_what_cannot_work_is_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        label_steps("arithmetic", **change)


def test_a_check_says_what_is_sampled(tmp_path: Path, tiny_folder: Path) -> None:
    text = checked(tmp_path, tiny_folder, method="label_steps", task=TASK, num_solutions=3)
    assert "3 solutions each" in text and "every_step with 8 continuations" in text
