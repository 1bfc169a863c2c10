"""Runs of a loop: longer ones, changes, stops."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rounds_of_rows import QUIET, loop, plan
from support import stopped_and_resumed, told, weights, weights_of

import posttrain as pt
from posttrain.errors import CheckpointError, ConfigError


def test_a_loop_grows_where_its_rates_stay(tiny_folder: Path, tmp_path: Path) -> None:
    constant = loop(schedule="constant")
    options: dict[str, Any] = {"output": tmp_path / "run", "console": QUIET}
    pt.fit(tiny_folder, constant, steps=3, **options)
    result = pt.fit(tiny_folder, constant, steps=6, resume=True, **options)
    whole = pt.fit(tiny_folder, plan("constant"), steps=6, console=QUIET)
    assert weights_of(result.model) == weights_of(whole.model)
    assert (tmp_path / "run" / "model-3").is_dir()  # that of the shorter loop
    assert [row["step"] for row in told(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_changes_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"output": tmp_path / "run", "console": QUIET}
    pt.fit(tiny_folder, loop(), steps=2, **options)
    with pytest.raises(ConfigError, match="already holds a run"):
        pt.fit(tiny_folder, loop(), steps=2, **options)
    with pytest.raises(CheckpointError, match="learning_rate: "):
        pt.fit(tiny_folder, loop(learning_rate=2e-3), steps=2, resume=True, **options)
    with pytest.raises(CheckpointError, match=r"accept=\['max_steps'\]"):  # a cosine schedule
        pt.fit(tiny_folder, loop(), steps=4, resume=True, **options)
    with pytest.raises(ConfigError, match="is a loop"):
        pt.fit(tiny_folder, loop(), schedule_steps=4, console=QUIET)


def test_a_stop_at_the_end_of_a_round_ends_the_loop(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    raw = {
        "method": "spin",
        "task": {"name": "arithmetic", "num_examples": 4, "num_steps": 1},
        "batch_size": 2,
        "sampling": {"max_tokens": 6},
        "num_rounds": 2,
        "max_steps": 4,
    }
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 2, **raw)
    assert weights(whole) == weights(half) and told(whole) == told(half)
