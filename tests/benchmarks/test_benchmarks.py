"""The benchmarks that need neither a peer nor a GPU run at toy size, and what they tell adds up."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    sys.modules.pop(name, None)
    return importlib.import_module(name)


def test_scaling_benchmark_runs_at_toy_size(monkeypatch: pytest.MonkeyPatch) -> None:
    scaling = load("scaling", monkeypatch)
    # Kept memory would hold for the whole test process.
    monkeypatch.setattr(scaling, "setup", lambda: None)
    told = scaling.main(["--largest", "2048", "--steps", "10", "--rounds", "1", "--dry"])
    assert [row["tokens"] for row in told["costs"]] == [1024, 2048]
    assert list(told["resident_mib"]) == list(range(1, 11))
