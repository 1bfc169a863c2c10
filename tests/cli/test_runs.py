"""What the commands do with a run: list the runs nearby, resume one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from posttrain.cli import main
from posttrain.cli.runs import resume, runs_near
from posttrain.errors import ConfigError


def test_resume_lists_the_runs_nearby(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/first").mkdir(parents=True)
    Path("runs/first/recipe.yaml").write_text("method: sft\n")
    assert main(["resume", "frist"]) == 2
    message = capsys.readouterr().err
    assert "runs/first" in message and "bin" not in message


def test_a_run_resumes_from_another_folder(
    rows: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = f"sft --model {tiny_folder} --data rows.jsonl max_steps=1 --output run"
    assert main([*arguments.split(), "batch_size=2"]) == 0
    other = rows.parent / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    assert main(["resume", "../run", "max_steps=2"]) == 0
    assert len((rows.parent / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_runs_near_are_listed_once_and_the_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("runs/new", "runs/old", "runs/sub/inner")):
        Path(name).mkdir(parents=True)
        Path(name, "recipe.yaml").write_text("method: sft\n")
        os.utime(Path(name, "recipe.yaml"), (1000 - age, 1000 - age))
    assert runs_near(Path("runs/sub")) == ["runs/new", "runs/old", "runs/sub/inner"]
    for number in range(30):
        Path(f"many/{number}").mkdir(parents=True)
        Path(f"many/{number}/recipe.yaml").write_text("method: sft\n")
    assert len(runs_near(Path("many"))) == 20


def test_a_run_of_python_objects_resumes_in_python_alone(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("method: sft\nin_python: true\n")
    with pytest.raises(ConfigError, match="resume=True"):
        resume(tmp_path, [], [], "")
