"""The search of many branches, at toy size."""

from __future__ import annotations

import pytest

from .loading import load


def test_a_tree_computes_each_token_once(monkeypatch: pytest.MonkeyPatch) -> None:
    branches = load("branches", monkeypatch)
    sizes = {"branches": 3, "trunk": 8, "rounds": 2, "length": 2, "pairs": 1, "width": 32}
    result = branches.main([f"--{name}={size}" for name, size in sizes.items()])
    # The second round: the newest token of each branch, or the trunk and three tokens of each.
    assert result["prompt_tokens_computed"] == {"tree": 11 + 3, "no tree": 11 + 17}
    assert result["tree"]["clock_ratio"] == 1 and result["every prefix"]["cpu_ratio"] > 0
