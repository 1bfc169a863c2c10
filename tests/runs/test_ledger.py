"""A recipe with a forgetting ledger: measured in the end, once, and refused before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.recipe import parse_recipe, recipe_as_dict
from posttrain.runs import run_of

OLD = {"name": "arithmetic", "num_steps": 1, "num_examples": 4}


def recipe(model: Path, folder: Path, **more: Any) -> Any:
    return parse_recipe(
        {
            "method": "sft",
            "model": {"path": str(model), "dtype": "float32"},
            "task": {"name": "sorting", "num_examples": 8, "num_numbers": 2},
            "output": str(folder),
            "batch_size": 4,
            "max_steps": 1,
            "learning_rate": 1e-2,
            "forgetting": {"old": [OLD], "num_examples": 3, "num_prompts": 2, **more},
        }
    )


def test_a_run_carries_its_ledger(tiny_folder: Path, tmp_path: Path) -> None:
    made = recipe(tiny_folder, tmp_path / "run")
    run = run_of(made)
    assert ("forgetting", "arithmetic, before and after; new: sorting") in run.prepared().facts
    run.execute()
    assert run.finished
    ledger = json.loads((tmp_path / "run" / "forgetting.json").read_text())
    assert [c["name"] for c in ledger["old"]] == ["arithmetic"]
    assert [c["name"] for c in ledger["new"]] == ["sorting"]
    assert len(ledger["lines"]) >= 2 and ledger["kl"]
    (tmp_path / "run" / "forgetting.json").unlink()
    again = run_of(made, resume=True)
    assert not again.finished
    again.execute()
    assert json.loads((tmp_path / "run" / "forgetting.json").read_text()) == ledger
    other = recipe(tiny_folder, tmp_path / "run", num_examples=2)
    run_of(other, resume=True).execute()
    assert json.loads((tmp_path / "run" / "forgetting.json").read_text()) != ledger


def test_it_is_read_back_from_the_runs_recipe(tiny_folder: Path, tmp_path: Path) -> None:
    made = recipe(tiny_folder, tmp_path)
    assert parse_recipe(recipe_as_dict(made)).forgetting == made.forgetting


def test_wrong_ledgers_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        recipe(tiny_folder, tmp_path, old=[])
    with pytest.raises(ConfigError):
        recipe(tiny_folder, tmp_path, old=[OLD, OLD])
    with pytest.raises(ConfigError):
        recipe(tiny_folder, tmp_path, old=[{"name": "arithmetics"}])
    with pytest.raises(ConfigError):
        recipe(tiny_folder, tmp_path, olds=[OLD])
    unscored = recipe(tiny_folder, tmp_path, old=[{"name": "jsonl", "path": "none.jsonl"}])
    with pytest.raises((ConfigError, DataError)):
        run_of(unscored).prepared()
