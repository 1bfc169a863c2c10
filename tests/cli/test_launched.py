"""Recipes whose processes are placed: what ranks get, and what is refused before any starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.cli import launched, runs
from posttrain.errors import ConfigError
from posttrain.recipe import load_recipe, parse_recipe

RAW: dict[str, Any] = {
    "method": "grpo",
    "model": "embedded",
    "task": {"name": "arithmetic", "num_examples": 20},
    "launch": {"ranks_per_node": 2},
    "max_steps": 2,
}
SERVED = {"engine": {"name": "served"}, "launch": {"servers": ["serve --port {port}"] * 2}}


class Job:
    """Takes the place of a job; starts nothing."""

    commands: list[list[str]]

    def __init__(self, cluster: Any, config: Any, command: Any, **options: Any) -> None:
        self.command, self.options = command, options

    def run(self) -> None:
        urls = [f"http://h:{n}" for n in range(2)]
        self.commands = [self.command(urls if Job.serves else [])]

    serves = False


def launch(recipe: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    monkeypatch.setattr(launched, "Job", Job)
    return launched.launch(recipe, lambda config: None, **options)  # type: ignore[arg-type, return-value]


def test_ranks_run_the_recipe_without_placement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parse_recipe({**RAW, "output": str(tmp_path / "run")}, tmp_path)
    job = launch(recipe, monkeypatch)
    ((*_, command, file),) = job.commands
    assert command == "run" and job.options["log"] == tmp_path / "run" / "launch.log"
    own = load_recipe(file)
    assert own.launch is None and own.output == str(tmp_path / "run") and own.max_steps == 2
    (tmp_path / "run" / "recipe.yaml").write_text("method: grpo\n")
    with pytest.raises(ConfigError, match="already holds a run.*posttrain resume"):
        launch(recipe, monkeypatch)
    job = launch(recipe, monkeypatch, resume=["max_steps=4"])
    assert job.commands[0][-3:] == ["resume", str(tmp_path / "run"), "max_steps=4"]


def test_servers_become_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "serves", True)
    raw = {**RAW, **SERVED, "output": str(tmp_path / "run")}
    job = launch(parse_recipe(raw, tmp_path), monkeypatch)
    values = yaml.safe_load(Path(job.commands[0][-1]).read_text())
    assert values["engine"]["url"] == ["http://h:0", "http://h:1"] and "launch" not in values
    (tmp_path / "run" / "recipe.yaml").write_text("method: grpo\n")
    job = launch(parse_recipe(raw, tmp_path), monkeypatch, resume=[])
    assert job.commands[0][-1] == 'engine.url=["http://h:0", "http://h:1"]'


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"launch": {"nodes": 0}}, "launch.nodes: 0"),
        ({"launch": {"servers": ["serve --port {port}"]}}, "launch.servers.*engine"),
        ({"launch": {"node": 2}}, "launch.node"),
        ({"method": "sample", "launch": {"nodes": 2}}, "launch"),
    ],
)
def test_what_cannot_be_is_refused_by_a_check(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=named):
        runs.check(parse_recipe({**RAW, **changes}, tmp_path))


def test_a_placed_recipe_is_checked_as_its_ranks_run_it(tmp_path: Path) -> None:
    runs.check(parse_recipe({**RAW, "output": str(tmp_path / "run")}, tmp_path))
    runs.check(parse_recipe({**RAW, **SERVED, "output": str(tmp_path / "run")}, tmp_path))
    assert not (tmp_path / "run").exists()
