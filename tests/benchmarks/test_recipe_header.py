"""Headers of recipes say what was measured."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
LINES = ["# Held-out accuracy, 6 seeds, means"]


@pytest.fixture
def header(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("recipe_header")


def test_sentence_takes_the_place_of_the_one_before(header: ModuleType) -> None:
    text = (
        "# Title.\n#\n# Held-out accuracy, 5 seeds, old\n# and wrapped.\n#\n# More.\nmethod: sft\n"
    )
    once = header.with_sentence(text, LINES)
    assert once == f"# Title.\n#\n{LINES[0]}\n#\n# More.\nmethod: sft\n"
    assert header.with_sentence(once, LINES) == once
    without = "# Title.\nmethod: sft\n"
    assert header.with_sentence(without, LINES) == f"# Title.\n#\n{LINES[0]}\nmethod: sft\n"


def test_headers_say_what_was_measured(header: ModuleType) -> None:
    """A header that states held-out figures states what results/recipes.json gives, of enough
    seeds, and every recipe with enough seeds states them.
    """
    results = header.Figures()
    for recipe in sorted((ROOT / "recipes").rglob("*.yaml")):
        text, name = recipe.read_text(), header.name_of(recipe)
        stated = any(header.MARK.match(row) for row in text.split("\n"))
        enough = len(results.runs.get(name, {})) >= header.least_seeds(name, results)
        assert stated == enough, f"run benchmarks/recipe_figures.py {name} --write"
        if stated:
            expected = header.with_sentence(text, header.sentence(recipe, results))
            assert text == expected, f"run benchmarks/recipe_figures.py {name} --write"


def test_a_header_is_not_written_from_fewer_seeds(header: ModuleType, tmp_path: Path) -> None:
    results = header.Figures(tmp_path / "recipes.json")
    recipe = ROOT / "recipes" / "policy_gradient" / "grpo.yaml"
    run = {"cpu_seconds": 1.0, "machine": "X", "models": {"": {"samples": 4, "correct": "4321"}}}
    results.add("recipes/policy_gradient/grpo.yaml", 0, run)
    with pytest.raises(SystemExit, match=r"grpo.yaml: 1 of 5 seeds"):
        header.sentence(recipe, results)


def test_three_seeds_are_enough_of_a_long_run(header: ModuleType, tmp_path: Path) -> None:
    results = header.Figures(tmp_path / "recipes.json")
    for name, seconds in (("short", 180.0), ("long", 181.0)):
        results.add(name, 0, {"cpu_seconds": seconds, "machine": "X"})
    assert header.least_seeds("short", results) == header.least_seeds("missing", results) == 5
    assert header.least_seeds("long", results) == 3


def test_sentence_of_held_out_rows(header: ModuleType, tmp_path: Path) -> None:
    results = header.Figures(tmp_path / "recipes.json")
    recipe = ROOT / "recipes" / "sft_text.yaml"
    for seed, loss in enumerate((2.9, 3.0, 3.1, 3.0, 3.0)):
        numbers = {"before": {"eval_loss": 4.0}, "after": {"eval_loss": loss}}
        run = {"cpu_seconds": 20.0, "machine": "X", "numbers": numbers}
        results.add("recipes/sft_text.yaml", seed, {**run, "with": {"data.path": "a.txt"}})
    text = " ".join(line.removeprefix("# ") for line in header.sentence(recipe, results))
    # s = sqrt(0.02 / 4), t = 2.776: half of the interval is 0.088.
    assert "5 seeds" in text and "with data.path=a.txt" in text
    assert "loss 4.000 before training and 3.000 (2.912 to 3.088) after" in text
    assert "about 20 s of one core of an X for each seed" in text


def test_sentence_of_the_best_of_n(header: ModuleType, tmp_path: Path) -> None:
    results = header.Figures(tmp_path / "recipes.json")
    recipe = ROOT / "recipes" / "reward_models" / "best_of_n.yaml"
    for seed in range(5):
        after = {"best_of_16": 0.75, "best_of_2": 0.5, "eval_accuracy": 0.9}
        run = {"cpu_seconds": 20.0, "machine": "X", "numbers": {"after": after}}
        results.add("recipes/reward_models/best_of_n.yaml", seed, run)
    text = " ".join(line.removeprefix("# ") for line in header.sentence(recipe, results))
    first, second = text.index("N = 2 50.0 %"), text.index("N = 16 75.0 %")
    assert first < second
