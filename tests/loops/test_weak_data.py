"""Curated self-training as whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import stopped_and_resumed, tiny_model, told

import posttrain as pt
from posttrain.errors import ConfigError, DataError
from posttrain.training.rollout_rows import read_rows

RAW: dict[str, Any] = {
    "method": "weak_data",
    "task": {"name": "arithmetic", "num_examples": 10, "num_steps": 1},
    "num_rounds": 2,
    "steps_per_round": 3,
    "num_generations": 2,
    "labels_per_round": 3,
    "label_accuracy": 0.5,
    "prompts_per_round": 6,
    "batch_size": 3,
    "learning_rate": 1e-3,
    "sampling": {"max_tokens": 12},
}


def test_resume_is_exact_and_buys_no_label_twice(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    raw = {**RAW, "model": tiny_model(tiny_folder, None), "accumulate": True}
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 4, **raw)
    assert told(whole) == told(half) and len(told(whole)) == 6
    name = "model.safetensors"
    assert (whole / "model" / name).read_bytes() == (half / "model" / name).read_bytes()
    for number in (1, 2):
        files = [f / f"round-{number}" / "rows.jsonl" for f in (whole, half)]
        assert files[0].read_bytes() == files[1].read_bytes()
        labels = [row for row in read_rows(files[0]) if row.hinted]
        assert len(labels) == 3 and all(row.selected for row in labels)
    first = told(whole)[0]
    assert first["labels/bought"] == 3 and 0 <= first["labels/right"] <= 1
    assert first["collapse/tail"] == 1.0 and first["collapse/hard"] == 1.0


def test_right_labels_alone_teach_a_model_that_knows_nothing(tiny_folder: Path) -> None:
    """label_accuracy = 1: what is learnt are worked completions, and their loss falls."""
    plan = pt.weak_data(
        RAW["task"],
        arm="hardest",
        label_accuracy=1.0,
        labels_per_round=10,
        num_rounds=2,
        steps_per_round=8,
        num_generations=1,
        batch_size=5,
        learning_rate=1e-2,
        sampling=pt.Sampling(max_tokens=6),
    )
    result = pt.fit(pt.load(str(tiny_folder)), plan)
    losses = [row["loss"] for row in result.metrics if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]
    assert [row["labels/right"] for row in result.metrics if "labels/right" in row] == [1.0, 1.0]


def test_a_filter_that_accepts_nothing_has_nothing_to_train_on(tiny_folder: Path) -> None:
    plan = pt.weak_data(
        RAW["task"], arm="filter", num_generations=1, sampling=pt.Sampling(max_tokens=4)
    )
    with pytest.raises(DataError, match="round 1"):
        pt.fit(pt.load(str(tiny_folder)), plan)


@pytest.mark.parametrize(
    "wrong",
    [
        {"label_accuracy": 2.0},
        {"false_accepts": -0.1},
        {"label_weight": 0.0},
        {"labels_per_round": 0},
        {"arm": "hard"},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        pt.weak_data("arithmetic", **wrong)


def test_labels_need_worked_completions(tiny_folder: Path) -> None:
    task = pt.make_task([{"prompt": "1 + 1 =", "answer": "2"}])
    with pytest.raises(DataError, match="worked completion"):
        pt.fit(pt.load(str(tiny_folder)), pt.weak_data(task), steps=1)
