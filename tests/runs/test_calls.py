"""From the values of a recipe to the arguments of its method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import write

from posttrain import registry
from posttrain.errors import ConfigError
from posttrain.recipe import parse_recipe
from posttrain.runs.calls import Call


def call(tmp_path: Path, **raw: Any) -> Call:
    return Call(parse_recipe(raw, tmp_path), notice=print)


def given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **raw: Any
) -> tuple[dict[str, Any], Call]:
    """The arguments that the recipe's method is called with."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(registry.methods, "get", lambda name: seen.update)
    made = call(tmp_path, **raw)
    made.make()
    return seen, made


def test_arguments_are_the_methods_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    raw = {"method": "grpo", "model": "m", "task": "sorting", "num_generations": 3}
    raw |= {"learning_rate": 0.5, "max_prompts_dropped": 0.25}
    arguments, _ = given(monkeypatch, tmp_path, **raw)
    assert arguments.keys() == registry.methods.entry("grpo").settings.keys()
    assert (arguments["num_generations"], arguments["learning_rate"]) == (3, 0.5)
    assert arguments["limits"].max_prompts_dropped == 0.25
    assert arguments["task"].name == "sorting"


def test_paths_are_looked_up_beside_the_recipe(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = write(tmp_path / "rows.jsonl", [{"prompt": "a", "completion": "b"}])
    (tmp_path / "folder").mkdir()
    made = call(tmp_path, method="sft", model="folder", data="rows.jsonl")
    made.recipe.plugins = ["mine.py"]
    assert made.resolve("rows.jsonl") == str(Path(rows).resolve())
    assert made.resolve("owner/name") == "owner/name"
    assert made.plugins == [(tmp_path / "mine.py").resolve()]
    assert made.trained_model.config.path == str((tmp_path / "folder").resolve())
    task = {"name": "jsonl", "path": "rows.jsonl"}
    arguments, _ = given(monkeypatch, tmp_path, method="grpo", model="m", task=task)
    assert arguments["task"].settings["path"] == str(Path(rows).resolve())


def test_the_working_folder_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    (tmp_path / "work").mkdir()
    for place in ("beside", "work"):
        write(tmp_path / place / "rows.jsonl", [{"prompt": place}])
    monkeypatch.chdir(tmp_path / "work")
    made = Call(
        parse_recipe({"method": "sft", "model": "m", "data": "d"}, tmp_path / "beside"),
        notice=print,
    )
    assert made.resolve("rows.jsonl") == str((tmp_path / "work" / "rows.jsonl").resolve())


def test_fields_of_data_that_nothing_read_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = {"path": "rows.jsonl", "max_length": 9}
    arguments, made = given(monkeypatch, tmp_path, method="sft", model="m", data=data)
    with pytest.raises(ConfigError, match="data.path"):
        made.refuse_unread()
    assert arguments["data"].path == "rows.jsonl"
    with pytest.raises(ConfigError, match="data.max_length"):
        made.refuse_unread()
    assert arguments["data"].max_length == 9
    made.refuse_unread()


def test_settings_of_the_training_are_those_of_the_recipe(tmp_path: Path) -> None:
    made = call(
        tmp_path, method="sft", model="m", data="d", save_every=7, penalties=["l2_to_start"]
    )
    assert made.training.save_every == 7
    assert [item.name for item in made.training.penalties] == ["l2_to_start"]
    assert made.training.report_to == ()


def test_a_recipe_without_a_model(tmp_path: Path) -> None:
    endpoint = {"url": "http://localhost:1/v1", "model": "m"}
    made = call(tmp_path, method="sample", endpoint=endpoint, task="sorting")
    assert made.model is None
    with pytest.raises(ConfigError, match="'model'"):
        _ = made.trained_model
