"""tests/TRIALS.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
NAMES = re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", (ROOT / "tests" / "TRIALS.md").read_text())


def test_every_test_of_a_trial_exists() -> None:
    assert len(NAMES) > 60
    for name in NAMES:
        file, _, function = name.partition("::")
        assert (ROOT / file).is_file(), f"there is no {file}"
        tree = ast.parse((ROOT / file).read_text())
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert any(f.startswith("test_") for f in functions) and (
            not function or function in functions
        ), name
