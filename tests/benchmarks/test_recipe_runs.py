"""What is measured of a recipe is read from it; what it reads, its header's commands make."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("recipe_runs")


def test_held_out_problems_are_of_the_test_split(runs: ModuleType) -> None:
    task = {"name": "arithmetic", "num_steps": 2, "seed": 7}
    evaluation = runs.evaluation_of({"method": "grpo", "task": task})
    assert evaluation["task"] == {
        "name": "arithmetic",
        "num_steps": 2,
        "split": "test",
        "num_examples": 300,
        "seed": 1,
    }


def test_the_recipe_says_what_it_is_measured_on(runs: ModuleType) -> None:
    own = {"task": {"name": "sorting"}, "num_examples": 5}
    recipe = {"method": "sft", "task": "arithmetic"}
    assert runs.evaluation_of({**recipe, "evaluation": own}) == own
    assert runs.evaluation_of({**recipe, "eval_data": "rows.jsonl"}) is None
    assert runs.evaluation_of({"method": "evaluate_reward", "task": "arithmetic"}) is None
    assert runs.evaluation_of({"method": "dpo", "data": "pairs.jsonl"}) is None


def test_a_recipe_of_the_users_files_is_measured_once_they_are_named(runs: ModuleType) -> None:
    recipe = {"method": "sft", "model": {"path": "embedded"}, "data": {"path": "corpus.txt"}}
    recipe["eval_data"] = {"path": "held_out.txt"}
    assert "data.path" in runs.unmeasured(recipe, {})
    assert "eval_data.path" in runs.unmeasured(recipe, {"data.path": "a"})
    assert runs.unmeasured(recipe, {"data.path": "a", "eval_data.path": "b"}) is None


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_measured_or_the_reason_is_known(runs: ModuleType, recipe: Path) -> None:
    """No kind of recipe raises. The header shows how to make what a measured one reads."""
    raw = yaml.safe_load(recipe.read_text())
    if runs.unmeasured(raw, {}) is None and runs.inputs_of(raw):
        assert runs.commands_before(recipe.read_text(), runs.name_of(recipe))


def test_commands_of_a_header(runs: ModuleType) -> None:
    text = (
        "# Title. A line that says posttrain run, which is no command.\n#\n"
        "#   posttrain sample --task arithmetic \\\n#     task.num_examples=4\n"
        "#   python recipes/rows.py      (once, about two minutes)\n"
        "#   posttrain run recipes/first.yaml        # leaves the teacher\n"
        "#   posttrain run recipes/own.yaml\n"
        "#   posttrain run recipes/later.yaml\nmethod: sft\n"
    )
    assert runs.commands_before(text, "recipes/own.yaml") == [
        "posttrain sample --task arithmetic task.num_examples=4",
        "python recipes/rows.py",
        "posttrain run recipes/first.yaml",
    ]


def test_inputs_are_what_a_recipe_reads(runs: ModuleType) -> None:
    recipe = {"output": "runs/own", "data": "runs/rows.jsonl", "stages": [{"model": "runs/m"}]}
    assert runs.inputs_of(recipe) == ["runs/rows.jsonl", "runs/m"]


def test_inputs_are_made_once(
    runs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tmp_path / "recipes" / "own.yaml"
    recipe.parent.mkdir()
    recipe.write_text("# T.\n#\n#   python rows.py\nmethod: sft\ndata: runs/rows.jsonl\n")
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    commands: list[list[str]] = []

    def nothing(command: list[str]) -> float:
        commands.append(command[1:])
        return 0.0

    monkeypatch.setattr(runs, "process", nothing)
    with pytest.raises(SystemExit, match=r"runs/rows.jsonl is missing"):
        runs.prepare(recipe)

    def leaves_rows(command: list[str]) -> float:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "rows.jsonl").write_text("{}\n")
        return nothing(command)

    monkeypatch.setattr(runs, "process", leaves_rows)
    runs.prepare(recipe)
    runs.prepare(recipe)
    assert commands == [["rows.py"], ["rows.py"]]


def written(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def test_measured_of_each_kind(runs: ModuleType, tmp_path: Path) -> None:
    outcomes = {"examples": [{"correct": [1, 0]}, {"correct": [1, 1]}]}
    written(tmp_path / "task" / "evaluation.json", outcomes)
    recipe = {"method": "sft", "evaluation": {}}
    one = {"models": {"": {"samples": 2, "correct": "12"}}}
    assert runs.measured_in(recipe, tmp_path / "task") == one

    written(tmp_path / "pipeline" / "a" / "evaluation.json", outcomes)
    rows = [{"stage": "first", "folder": "a"}]
    written(tmp_path / "pipeline" / "summary.json", {"rows": rows})
    pipeline = {"method": "pipeline", "evaluation": {}}
    assert runs.measured_in(pipeline, tmp_path / "pipeline") == {
        "models": {"first": one["models"][""]}
    }

    lines = [{"step": 0, "eval_loss": 4.0}, {"step": 1, "loss": 9.0}, {"step": 2, "eval_loss": 3.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    assert runs.measured_in({"method": "sft", "eval_data": "x"}, tmp_path) == {
        "numbers": {"before": {"eval_loss": 4.0}, "after": {"eval_loss": 3.0}}
    }

    curve = [{"n": 1, "gold": 0.25}, {"n": 8, "gold": 0.5}]
    measured = {"data": {"accuracy": {"estimate": 0.9}}, "best_of": {"curve": curve}}
    written(tmp_path / "reward_evaluation.json", measured)
    assert runs.measured_in({"method": "evaluate_reward"}, tmp_path) == {
        "numbers": {"after": {"best_of_1": 0.25, "best_of_8": 0.5, "eval_accuracy": 0.9}}
    }
