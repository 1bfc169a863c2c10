"""Headers of recipes say what was measured, and the intervals are what they claim."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("recipe_figures")


def test_interval_by_hand(figures: ModuleType) -> None:
    # Two seeds of four problems: seeds' means 0.5 and 0.75, problems' means 1, 0.5, 0.5, 0.5.
    means = [[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0]]
    of_seeds = 12.706 * math.sqrt(2 * 0.125**2) / math.sqrt(2)
    of_problems = 1.96 * math.sqrt((0.375**2 + 3 * 0.125**2) / 3) / math.sqrt(4)
    assert figures.interval_of(means) == pytest.approx((0.625, math.hypot(of_seeds, of_problems)))
    spread = math.sqrt(2 * 0.125**2) * math.sqrt(1.5)
    assert figures.range_of(means) == pytest.approx(
        (0.625 - 12.706 * spread, 0.625 + 12.706 * spread)
    )


def test_counts_survive_the_file(figures: ModuleType, tmp_path: Path) -> None:
    results = figures.Figures(tmp_path / "recipes.json")
    results.add("a.yaml", 1, {"": {"samples": 16, "correct": "0g8"}}, 12.34)
    results.add("a.yaml", 0, {"": {"samples": 16, "correct": "44g"}}, 10.0)
    again = figures.Figures(tmp_path / "recipes.json")
    assert again.means("a.yaml") == [[0.25, 0.25, 1.0], [0.0, 1.0, 0.5]]
    assert again.cpu_seconds("a.yaml") == pytest.approx(11.15)


def test_sentence_takes_the_place_of_the_one_before(figures: ModuleType) -> None:
    text = "# Title.\n#\n# Held-out accuracy, old\n# and wrapped.\n#\n# More.\nmethod: sft\n"
    lines = ["# Held-out accuracy, new"]
    once = figures.with_sentence(text, lines)
    assert once == "# Title.\n#\n# Held-out accuracy, new\n#\n# More.\nmethod: sft\n"
    assert figures.with_sentence(once, lines) == once
    assert (
        figures.with_sentence("# Title.\nmethod: sft\n", lines)
        == f"# Title.\n#\n{lines[0]}\nmethod: sft\n"
    )


def test_held_out_problems_are_of_the_test_split(figures: ModuleType) -> None:
    evaluation = figures.evaluation_of({"task": {"name": "arithmetic", "num_steps": 2, "seed": 7}})
    assert evaluation["task"] == {
        "name": "arithmetic",
        "num_steps": 2,
        "split": "test",
        "num_examples": 300,
        "seed": 1,
    }
    own = {"task": {"name": "sorting"}, "num_examples": 5}
    assert figures.evaluation_of({"evaluation": own, "task": "arithmetic"}) == own


def test_headers_say_what_was_measured(figures: ModuleType) -> None:
    """A header that states held-out accuracy states what results/recipes.json gives, of five
    seeds or more.
    """
    results = figures.Figures()
    for recipe in sorted((ROOT / "recipes").rglob("*.yaml")):
        text = recipe.read_text()
        if figures.MARK in text:
            name = str(recipe.relative_to(ROOT))
            assert len(results.runs[name]) >= 5, f"{name}: fewer than five seeds"
            expected = figures.with_sentence(text, figures.sentence(recipe, results))
            assert text == expected, f"run benchmarks/recipe_figures.py {name} --write"


def test_a_header_is_not_written_from_fewer_seeds(
    figures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = figures.Figures(tmp_path / "recipes.json")
    recipe = ROOT / "recipes" / "policy_gradient" / "grpo.yaml"
    results.add(
        "recipes/policy_gradient/grpo.yaml", 0, {"": {"samples": 4, "correct": "4321"}}, 1.0
    )
    with pytest.raises(SystemExit, match=r"grpo.yaml: 1 of 5 seeds"):
        figures.sentence(recipe, results)
