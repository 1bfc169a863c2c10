"""`posttrain reward-distance`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from posttrain.cli import main


def test_a_table_and_its_file(tmp_path: Path, capsys: Any) -> None:
    rows = tmp_path / "rows.jsonl"
    row = {"prompt": "2+2=", "answer": "4", "completions": ["4", "it is 4", "5 it"]}
    rows.write_text(json.dumps(row) + "\n")
    output = tmp_path / "distance.json"
    rewards = ["--reward", "exact", "--reward", "keyword:words=[it]"]
    assert main(["reward-distance", str(rows), *rewards, "--output", str(output)]) == 0
    assert "exact and keyword" in capsys.readouterr().out
    assert json.loads(output.read_text())["pairs"][0]["distance"] is not None
    assert main(["reward-distance", str(rows), "--reward", "exact"]) == 2
    assert main(["reward-distance", str(tmp_path / "none.jsonl"), *rewards]) == 1
