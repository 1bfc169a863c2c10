"""The table of searches: a row per strategy and task, and an interrupted one goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from .loading import load


def test_a_small_table(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = load("search_table", monkeypatch)
    page, folder = tmp_path / "search_table.md", tmp_path / "cells"
    arguments = f"--model {tiny_folder} --budget 12 --problems 3 --output {page} --folder {folder}"
    only = ["--only", "majority_vote", "--only", "best_of_n", "--only", "value_beam"]
    monkeypatch.setattr(sys, "argv", ["search_table", *arguments.split(), *only])
    module.main()
    text = page.read_text()
    for task in ("arithmetic", "countdown", "game24"):
        assert f"## {task}" in text
    assert text.count("| majority_vote |") == text.count("| best_of_n (by length) |") == 3
    assert "- value_beam: " in text  # there is no critic
    numbers = json.loads((folder / "table.json").read_text())
    assert len(numbers) == 9 and all(n["tokens"] <= 12 for n in numbers.values())
    assert "against_sample" not in numbers["game24 sample"]

    cells = {path: path.read_bytes() for path in folder.iterdir()}
    page.unlink()
    module.main()  # what is there is read
    assert page.read_text() == text and len(cells) == 10
    assert {path: path.read_bytes() for path in folder.iterdir()} == cells
