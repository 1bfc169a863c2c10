"""The benchmarks are scripts of one folder, which import each other by name."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent.parent.parent / "benchmarks"


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of benchmarks/."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return sys.modules.get(name) or importlib.import_module(name)
