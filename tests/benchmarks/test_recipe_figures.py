"""The command measures what can be measured, and writes headers only from enough seeds."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent.parent
RUN = {"cpu_seconds": 1.0, "machine": "X"}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("recipe_figures")
    results = module.Figures(tmp_path / "recipes.json")
    monkeypatch.setattr(module, "Figures", lambda: results)
    return module


def test_what_is_missing_is_run(command: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int, dict[str, str]]] = []
    monkeypatch.setattr(command, "prepare", lambda recipe: None)
    monkeypatch.setattr(command, "measure_base", lambda recipe, figures: None)
    monkeypatch.setattr(
        command, "run", lambda recipe, seed, figures, with_: made.append((recipe.stem, seed, with_))
    )
    command.Figures().add("recipes/peft/vera.yaml", 1, RUN)
    folder = ROOT / "recipes" / "peft"
    command.main([str(folder / "vera.yaml"), str(folder / "qlora.yaml"), "--seeds", "3"])
    assert made == [("vera", 0, {}), ("vera", 2, {})]  # qlora needs a model and rows of the user's
    made.clear()
    text = ROOT / "recipes" / "sft_text.yaml"
    named = ["data.path=a=b.txt", "eval_data.path=c"]
    command.main([str(text), "--seeds", "1", "--set", *named])
    assert made == [("sft_text", 0, {"data.path": "a=b.txt", "eval_data.path": "c"})]


def test_headers_are_written_from_enough_seeds(
    command: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    original = (ROOT / "recipes" / "peft" / "vera.yaml").read_text()
    for name in ("first", "second"):
        (tmp_path / f"{name}.yaml").write_text(original)
    results = command.Figures()
    line = "# Held-out accuracy, 5 seeds, means"
    monkeypatch.setattr(command, "sentence", lambda recipe, figures: [line])
    monkeypatch.setattr(command, "name_of", lambda recipe: recipe.stem)
    for seed in range(5):
        results.add("first", seed, RUN)
    command.write([tmp_path / "first.yaml", tmp_path / "second.yaml"], results)
    assert "# Held-out accuracy, 5 seeds, means\n" in (tmp_path / "first.yaml").read_text()
    assert (tmp_path / "second.yaml").read_text() == original
    assert "second" in capsys.readouterr().out
