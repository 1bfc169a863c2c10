"""The quickstart's rate is chosen on problems that it is neither trained nor measured on."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from posttrain.registry import tasks

ROOT = Path(__file__).parent.parent.parent
RECIPE = yaml.safe_load((ROOT / "recipes" / "quickstart.yaml").read_text())


@pytest.fixture
def rate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("quickstart_rate")
    monkeypatch.setattr(module, "WORK", tmp_path)
    return module


def prompts(settings: dict[str, Any]) -> set[str]:
    rest = {key: value for key, value in settings.items() if key != "name"}
    return {str(example.prompt) for example in tasks.get(settings["name"])(**rest).examples}


def test_validation_problems_are_disjoint(rate: ModuleType) -> None:
    chosen_on = prompts(rate.validation(RECIPE)["task"])
    assert len(chosen_on) == rate.NUM_PROBLEMS
    assert not chosen_on & prompts(RECIPE["evaluation"]["task"])
    for stage in RECIPE["stages"]:
        if "task" in stage:
            assert not chosen_on & prompts(stage["task"])


def fake(rate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Runs that take no time: accuracy rises with the rate and falls with the steps."""
    made: list[dict[str, Any]] = []

    def execute(recipe: dict[str, Any]) -> float:
        made.append(recipe)
        folder = Path(recipe["output"])
        folder.mkdir()
        (folder / "evaluation.json").write_text("{}")
        return 1.0

    def counts_of(folder: Path) -> dict[str, Any]:
        recipe = next(recipe for recipe in made if recipe["output"] == str(folder))
        number = int(recipe["learning_rate"] * 1e4) * 2 + (recipe.get("max_steps") == 60)
        return {"samples": 9, "correct": f"{number}{number + 1}"}

    monkeypatch.setattr(rate, "execute", execute)
    monkeypatch.setattr(rate, "counts_of", counts_of)
    return made


def test_rates_are_tried_first_then_steps(
    rate: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = fake(rate, monkeypatch)
    figures = rate.Figures(tmp_path / "rate.json")
    rate.measure_all(1, [1e-4, 3e-4], [60, 100], figures)
    rate.measure_all(1, [1e-4, 3e-4], [60, 100], figures)  # nothing is left to run
    grpo = [recipe for recipe in made if recipe["method"] == "grpo"]
    tried = [(recipe["learning_rate"], recipe["max_steps"]) for recipe in grpo]
    assert tried == [(1e-4, 100), (3e-4, 100), (3e-4, 60)]
    assert [recipe["method"] for recipe in made] == ["sft", "grpo", "grpo", "grpo"]
    assert all(recipe["model"]["path"] == str(tmp_path / "sft-0" / "model") for recipe in grpo)
    assert all(r["evaluation"]["task"]["split"] == "validation" for r in made)
    assert rate.choice(figures) == "learning_rate=0.0003 max_steps=60"
    assert "**learning_rate=0.0003 max_steps=60**" in rate.table(figures)


def test_a_setting_with_fewer_seeds_is_not_chosen(rate: ModuleType, tmp_path: Path) -> None:
    figures = rate.Figures(tmp_path / "rate.json")
    for name, seeds, correct in (("a", 2, "12"), ("b", 1, "44")):
        for seed in range(seeds):
            models = {"": {"samples": 4, "correct": correct}}
            figures.add(name, seed, {"cpu_seconds": 1.0, "machine": "X", "models": models})
    assert rate.choice(figures) == "a"
