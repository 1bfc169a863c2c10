"""`posttrain continual` takes recipes of sequences alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from posttrain.cli import main

RECIPE = {
    "method": "continual_learning",
    "stages": [
        {
            "name": "two",
            "method": "sft",
            "task": {"name": "sorting", "num_examples": 4, "num_numbers": 2},
            "max_steps": 1,
        }
    ],
}


def test_a_sequence_is_checked(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump({**RECIPE, "model": str(tiny_folder)}))
    assert main(["continual", str(file), "--check", f"output={tmp_path / 'run'}"]) == 0
    assert "naive; replay" in capsys.readouterr().out
    file.write_text(yaml.safe_dump({"method": "sft", "task": "sorting", "model": "embedded"}))
    assert main(["continual", str(file)]) != 0
