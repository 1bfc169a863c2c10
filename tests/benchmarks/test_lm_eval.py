"""The rows of lm-eval's tasks."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parent.parent.parent / "benchmarks" / "lm_eval"


def test_a_folder_has_tasks_and_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("lm_eval_rows", FOLDER / "rows.py")
    assert spec is not None and spec.loader is not None
    rows = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rows)
    monkeypatch.setattr(sys, "argv", ["rows.py", str(tmp_path)])
    rows.main()
    for path in FOLDER.glob("*.yaml"):
        task = yaml.safe_load((tmp_path / path.name).read_text())
        lines = (tmp_path / task["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
        assert len(lines) == 100
    for line in (tmp_path / "sums.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert row["results"][row["label"]] == row["answer"]
        assert len(set(row["results"])) == 4 and row["work"].endswith("=")
    for line in (tmp_path / "counts.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert len(row["text"].split()) == int(row["answer"])
