"""`posttrain plan`: a table, or JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from posttrain.cli import main

RECIPE = {
    "method": "grpo",
    "model": "embedded",
    "task": {"name": "arithmetic", "num_examples": 8},
    "rewards": ["task"],
    "batch_size": 4,
    "num_generations": 2,
}


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return str(path)


def test_a_column_for_each_number_of_devices(
    recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", recipe, "--devices", "1,8", "--shape", "qwen3-0.6b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| devices | 1 | 8 |"
    rows = {line.split(" | ")[0].strip("| ") for line in lines[4:]}
    assert {"memory: weights", "time: sampling", "peak memory", "step", "breaks first"} <= rows


def test_json_has_bytes_and_seconds(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["plan", recipe, "optimizer=adamw_8bit", "--devices", "2", "--replicated", "--json"]
    assert main(command) == 0
    cost = json.loads(capsys.readouterr().out)["2"]
    assert cost["step_seconds"] == pytest.approx(sum(cost["seconds"].values()))
    assert "gradients summed" in cost["traffic"] and cost["peak_bytes"] > 0


def test_counts_that_are_none_are_refused(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--devices", "1,none"]) == 2
    assert "--devices '1,none'" in capsys.readouterr().err
