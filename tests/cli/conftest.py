"""A working folder for commands."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file of rows."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a b", "completion": "c d"}\n' * 3)
    (tmp_path / "pairs.jsonl").write_text(
        '{"prompt": "a b", "chosen": "c d", "rejected": "e"}\n' * 3
    )
    return path
