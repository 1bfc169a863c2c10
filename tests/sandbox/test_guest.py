"""The tests of the guest, each file in an interpreter of its own that has no threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FRESH = "POSTTRAIN_TEST_IN_A_FRESH_PROCESS"  # as in conftest.py
FILES = sorted((Path(__file__).parent / "guest").glob("test_*.py"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_parts_of_the_guest(file: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(
        command, env={**os.environ, FRESH: "1"}, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-3000:]
