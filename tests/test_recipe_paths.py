from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.errors import ModelError
from posttrain.recipe import parse_recipe
from posttrain.recipe_paths import model_of, with_absolute_paths


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("rows.jsonl", "t.jinja"):
        (tmp_path / name).write_text("x")
    (tmp_path / "m").mkdir()
    stage = {"name": "a", "method": "sft", "data": "rows.jsonl"}
    recipe = parse_recipe({"method": "pipeline", "model": "m", "stages": [stage]})
    changed = with_absolute_paths(recipe)
    assert changed.model is not None and changed.model.path == str(tmp_path / "m")
    assert changed.stages[0]["data"] == str(tmp_path / "rows.jsonl")
    task = {"name": "jsonl", "path": "rows.jsonl"}
    model = {"path": "org/name", "chat_template": "t.jinja"}
    grpo = with_absolute_paths(parse_recipe({"method": "grpo", "model": model, "task": task}))
    assert grpo.task is not None and grpo.task.settings["path"] == str(tmp_path / "rows.jsonl")
    assert grpo.model is not None and grpo.model.path == "org/name"
    assert grpo.model.chat_template == str(tmp_path / "t.jinja")


def test_the_folder_of_a_run_is_its_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    assert model_of(str(run)) == str(run)
    (run / "recipe.yaml").write_text("")
    (run / "checkpoint-3").mkdir()
    with pytest.raises(ModelError, match="checkpoint-3"):
        model_of(str(run))
    (run / "checkpoint-3").rmdir()
    (run / "round-2" / "checkpoint-5").mkdir(parents=True)
    with pytest.raises(ModelError, match="round-2/checkpoint-5"):
        model_of(str(run))
    (run / "model").mkdir()
    lines: list[str] = []
    assert model_of(str(run), lines.append) == str(run / "model") and lines
