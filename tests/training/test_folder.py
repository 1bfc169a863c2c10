"""A run's folder: its recipe, and what refuses to be gone on with."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from posttrain.errors import CheckpointError, ConfigError
from posttrain.training.folder import RunFolder, plain

RECORD = {"method": "sft", "in_python": True, "learning_rate": 1e-3, "max_steps": 4, "seed": 0}


def folder_of(path: Path, record: Any = RECORD, **options: Any) -> RunFolder:
    return RunFolder(path, record, console=Console(file=io.StringIO()), **options)


def test_the_recipe_is_written_below_the_command(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "a" / "run", command="posttrain sft\n--x", plugins=[tmp_path / "mine.py"]
    )
    assert not folder.holds_run
    folder.open()
    text = (folder.path / "recipe.yaml").read_text()
    assert text.startswith("# posttrain sft") and text.splitlines()[1].startswith("method")
    values = yaml.safe_load(text)
    assert values == {
        **RECORD,
        "output": str(folder.path),
        "plugins": [str(tmp_path / "mine.py")],
    }
    assert folder.holds_run


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "run"
    (path / ".checkpoint-2.partial-17").mkdir(parents=True)
    (path / ".model.old-17").mkdir()
    folder_of(path).open()
    assert sorted(p.name for p in path.iterdir()) == ["model", "recipe.yaml"]


def test_nothing_is_written_before_the_outer_folder_is_open(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "run")
    seen: list[bool] = []
    folder.before_open = lambda: seen.append(folder.path.exists())
    folder.open()
    assert seen == [False]


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    folder_of(tmp_path / "run").open()
    again = folder_of(tmp_path / "run", command="another")
    with pytest.raises(ConfigError, match=str(tmp_path / "run")):
        again.open()
    assert "another" not in (tmp_path / "run" / "recipe.yaml").read_text()
    folder_of(tmp_path / "run", resume=True).refuse_existing()


def test_where_a_run_starts(tmp_path: Path) -> None:
    start = folder_of(tmp_path / "run").start()
    assert start.checkpoint is None and start.step == 0 and not start.has_model
    with pytest.raises(CheckpointError, match=str(tmp_path / "run")):
        folder_of(tmp_path / "run", resume=True).start()
    folder_of(tmp_path / "run").open()
    assert folder_of(tmp_path / "run", resume=True).start().checkpoint is None


def test_changes_name_the_key_with_both_values(tmp_path: Path) -> None:
    folder_of(tmp_path / "run").open()
    other = folder_of(tmp_path / "run", {**RECORD, "learning_rate": 2e-3}, resume=True)
    assert [change.name for change in other.changes()] == ["learning_rate"]
    with pytest.raises(CheckpointError, match=r"learning_rate: 0.001 -> 0.002"):
        other.refuse_other_recipe()
    elsewhere = folder_of(tmp_path / "run", {**RECORD, "output": "x", "save_every": 3}, resume=True)
    assert [change.name for change in elsewhere.changes()] == ["save_every"]
    elsewhere.refuse_other_recipe()


def test_an_unknown_change_cannot_be_accepted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wieghts"):
        folder_of(tmp_path / "run", accept=["wieghts"])


def test_records_are_json_values() -> None:
    assert plain({"path": Path("a/b"), "betas": (0.9, 0.99), "n": None}) == {
        "path": "a/b",
        "betas": [0.9, 0.99],
        "n": None,
    }
