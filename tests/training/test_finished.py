"""A run whose training is done: nothing is trained again, a missing evaluation is made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import told, weights

from posttrain.errors import CheckpointError

TASK = {"name": "arithmetic", "num_examples": 6, "num_steps": 1}
MEASURED = {"task": {**TASK, "split": "test"}, "num_examples": 4, "sampling": {"max_tokens": 6}}
RUNS: dict[str, dict[str, Any]] = {
    "sft": {"method": "sft", "task": TASK},
    "loop": {"method": "spin", "task": TASK, "num_rounds": 2, "sampling": {"max_tokens": 6}},
}


def evaluated(folder: Path) -> dict[str, Any]:
    """The evaluation without its duration."""
    values = json.loads((folder / "evaluation.json").read_text())
    return {key: value for key, value in values.items() if key != "seconds"}


@pytest.mark.parametrize("name", RUNS)
def test_a_missing_evaluation_is_made_and_one_that_is_there_stays(
    name: str, run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    raw = {**RUNS[name], "batch_size": 2, "max_steps": 2, "output": str(tmp_path / "run")}
    raw["evaluation"] = MEASURED
    folder = run_recipe(**raw)
    measured, trained = evaluated(folder), weights(folder)
    (folder / "evaluation.json").unlink()
    run_recipe(**raw, resume=True)
    assert evaluated(folder) == measured
    when = (folder / "evaluation.json").stat().st_mtime_ns
    run_recipe(**raw, resume=True)
    assert (folder / "evaluation.json").stat().st_mtime_ns == when
    assert weights(folder) == trained and [row["step"] for row in told(folder)] == [1, 2]


@pytest.mark.parametrize("name", RUNS)
def test_another_evaluation_keeps_the_old_one(
    name: str, run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    raw = {**RUNS[name], "batch_size": 2, "max_steps": 2, "output": str(tmp_path / "run")}
    folder = run_recipe(**raw, evaluation=MEASURED)
    before = (folder / "evaluation.json").read_text()
    run_recipe(**raw, evaluation={**MEASURED, "num_examples": 3}, resume=True)
    assert (folder / "evaluation-2.json").read_text() == before
    assert (folder / "evaluation.json").read_text() != before
    with pytest.raises(CheckpointError):
        run_recipe(**raw, learning_rate=0.5, evaluation=MEASURED, resume=True)
