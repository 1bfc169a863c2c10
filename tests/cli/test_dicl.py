"""`posttrain dicl`: three actions, and what is refused before weights are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.cli import main


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    t = np.arange(80)
    rows = np.stack([np.sin(t / 5), np.cos(t / 5)], 1)
    Path("waves.csv").write_text(
        "t,a,b\n" + "".join(f"{i},{a:.5f},{b:.5f}\n" for i, (a, b) in enumerate(rows))
    )
    return "waves.csv"


def test_each_action_prints_and_writes(table: str, capsys: Any) -> None:
    data = ["embedded", "--data", table, "--column", "a", "--column", "b"]
    assert main(["dicl", "forecast", *data, "steps=3", "last=20"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    values = json.loads(Path("runs/dicl-forecast/forecast.json").read_text())
    assert np.array(values["paths"]).shape == (1, 3, 2) and len(values["context"]) == 20
    small = ["num_windows=2", "window=24", "burn_in=2"]
    assert main(["dicl", "evaluate", *data, "learners=[vicl,gaussian]", *small]) == 0
    assert Path("runs/dicl-evaluate/dynamics.svg").is_file()
    assert main(["dicl", "calibrate", *data, *small, "--output", "runs/c"]) == 0
    assert "temperature" in Path("runs/c/calibration.txt").read_text()
    assert main(["dicl", "calibrate", *data, *small, "--output", "runs/c"]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["forcast", "embedded", "--data", "waves.csv"],
        ["forecast", "embedded"],
        ["forecast", "embedded", "--data", "waves.csv", "window=3"],
        ["forecast", "embedded", "--data", "waves.csv", "steps=x"],
        ["forecast", "embedded", "--data", "waves.csv", "--column", "c"],
    ],
)
def test_wrong_arguments_are_status_2(arguments: list[str], table: str) -> None:
    assert main(["dicl", *arguments]) == 2
    assert not Path("runs").exists()


def test_a_missing_file_is_status_1(table: str) -> None:
    assert main(["dicl", "forecast", "embedded", "--data", "none.csv"]) == 1
    assert not Path("runs").exists()
