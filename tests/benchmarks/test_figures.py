"""Measured runs survive their file, and the intervals are what they claim."""

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
    return importlib.import_module("figures")


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


def test_interval_of_numbers_by_hand(figures: ModuleType) -> None:
    # Standard deviation 1 over three seeds: 4.303 / sqrt(3).
    assert figures.half_of_seeds([1.0, 2.0, 3.0]) == pytest.approx(4.303 / math.sqrt(3))
    assert figures.half_of_seeds([1.0]) == 0.0


def test_runs_survive_the_file(figures: ModuleType, tmp_path: Path) -> None:
    results = figures.Figures(tmp_path / "recipes.json")
    models = [{"": {"samples": 16, "correct": digits}} for digits in ("0g8", "44g")]
    results.add("a.yaml", 1, {"cpu_seconds": 12.3, "machine": "X", "models": models[0]})
    results.add("a.yaml", 0, {"cpu_seconds": 10.0, "machine": "Y", "models": models[1]})
    numbers = {"before": {"eval_loss": 4.0}, "after": {"eval_loss": 3.0}}
    results.add("b.yaml", 0, {"cpu_seconds": 1.0, "machine": "X", "numbers": numbers})
    again = figures.Figures(tmp_path / "recipes.json")
    assert again.means("a.yaml") == [[0.25, 0.25, 1.0], [0.0, 1.0, 0.5]]
    assert again.cpu_seconds("a.yaml") == pytest.approx(11.15)
    assert again.machines("a.yaml") == ["X", "Y"]
    assert again.numbers("b.yaml", "after", "eval_loss") == [3.0]
    assert again.first("a.yaml")["machine"] == "Y"


def test_machine_is_named_by_processor_and_family(figures: ModuleType) -> None:
    known = {"processor": "AMD EPYC", "family": "25", "model": "17"}
    assert figures.machine_text(known) == "AMD EPYC (family 25, model 17)"
    assert figures.machine_text({"processor": "arm", "family": "", "model": ""}) == "arm"
