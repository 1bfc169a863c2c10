"""What the benchmark of overlap makes of its runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .loading import load


def test_a_summary_of_paired_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ratios 0.5 and 0.7, mean 0.6; differences of accuracy 0 and 0.1. A seed with one run alone
    is left out.
    """
    overlap: Any = load("overlap", monkeypatch)

    def run(seconds: float, accuracy: float) -> dict[str, float]:
        return {"step_time": seconds, "accuracy": accuracy, "load": 1.0, "reward": 0.5}

    runs = {
        "0": {"in turn": run(2.0, 0.8), "overlapped": run(1.0, 0.8)},
        "1": {"in turn": run(1.0, 0.7), "overlapped": run(0.7, 0.8)},
        "2": {"in turn": run(9.0, 0.1)},
    }
    found = overlap.summary(runs)
    assert found["seeds"] == 2
    mean, low, high = found["ratio of seconds"]
    assert mean == pytest.approx(0.6) and low < 0.5 < 0.7 < high
    assert found["difference of accuracy"][0] == pytest.approx(0.05)
    assert found["seconds per step"] == pytest.approx({"in turn": 1.5, "overlapped": 0.85})
    file = tmp_path / "overlap.json"
    file.write_text(json.dumps({"runs": runs, "summary": found}))
    overlap.main(["--table", "--results", str(file)])
    assert "| x 0.60 (" in capsys.readouterr().out
