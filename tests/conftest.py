"""Fixtures that many tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models beside the checkout; tests that read it skip where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"no folder of real data beside the checkout ({folder})")
    return folder


@pytest.fixture(scope="session")
def stories(shared: Path) -> Path:
    """A real pre-trained Llama-architecture model of 260 thousand parameters."""
    folder = shared / "models" / "stories260K"
    if not folder.is_dir():
        pytest.skip(f"no model folder {folder}")
    return folder
