"""Fixtures of the tests of episodes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

_FOLDER = Path(__file__).parent


def _module(name: str) -> ModuleType:
    """A module of this folder that tests share; test files are imported without their folder."""
    full = f"episodes_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, _FOLDER / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[full] = module
        spec.loader.exec_module(module)
    return sys.modules[full]


@pytest.fixture
def engines() -> ModuleType:
    """Engines without a model."""
    return _module("engines")


@pytest.fixture
def templates() -> ModuleType:
    """Chat templates and a tokenizer for each."""
    return _module("templates")
