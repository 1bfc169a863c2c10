"""Self-play fine-tuning as whole runs on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import checked, stopped_and_resumed, tiny_model, told, weights, write

from posttrain.errors import ConfigError, DataError
from posttrain.loops.spin import spin
from posttrain.models.spec import model_spec
from posttrain.tasks.jsonl import jsonl

TASK = {"name": "arithmetic", "num_examples": 12, "num_steps": 1}
SPIN: dict[str, Any] = {
    "method": "spin",
    "task": TASK,
    "batch_size": 4,
    "sampling": {"max_tokens": 12},
    "learning_rate": 1e-3,
    "num_rounds": 2,
}


def test_the_opponent_is_the_model_of_the_rounds_start(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Within a round the rejected texts do not depend on what has been learnt in it."""
    texts = []
    for rate in (1e-3, 1e-12):
        folder = run_recipe(**{**SPIN, "learning_rate": rate, "output": str(tmp_path / str(rate))})
        rows = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
        texts.append([(r["step"], c["text"]) for r in rows for c in r["completions"]])
    first = [[t for t in row if t[0] <= 3] for row in texts]  # rounds of three steps
    assert first[0] == first[1] and texts[0] != texts[1]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_resume_is_exact(
    lora: bool, run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    model = tiny_model(tiny_folder, {"r": 2} if lora else None)
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 3, **SPIN, model=model)
    assert weights(whole) == weights(half) and told(whole) == told(half)
    assert (whole / "rollouts.jsonl").read_text() == (half / "rollouts.jsonl").read_text()
    metrics = told(whole)
    assert len(metrics) == 6 and sum(m["pairs/trained"] for m in metrics) > 0
    named = {"reward", "completions/mean_length", "rewards/accuracies", "pairs/skipped"}
    assert named <= set().union(*metrics)


def test_worked_completions_are_needed_under_different_ids(
    tmp_path: Path, tiny_folder: Path
) -> None:
    rows = [{"prompt": "a", "answer": "1", "completion": "1", "id": "x"}] * 2
    task = {"name": "jsonl", "path": write(tmp_path / "rows.jsonl", rows)}
    with pytest.raises(DataError, match="worked completion"):
        checked(tmp_path, tiny_folder, **{**SPIN, "task": task})
    task["completion_column"] = "completion"
    with pytest.raises(DataError, match="same id"):
        spec = model_spec(str(tiny_folder))
        spin(jsonl(path=task["path"], completion_column="completion")).prepare(spec, 0, 2)


@pytest.mark.parametrize(
    ("change", "named"), [({"num_rounds": 0}, "num_rounds: 0"), ({"losses": ["simpo"]}, "losses")]
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, tiny_folder: Path, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        checked(tmp_path, tiny_folder, **{**SPIN, **change})
