"""Speculative decoding beside plain decoding, at toy size."""

from __future__ import annotations

import pytest

from .loading import load


def test_a_draft_of_the_layers_that_count_is_always_right(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = load("speculation", monkeypatch)
    sizes = {"pairs": 1, "tokens": 13, "prompt": 8, "width": 32, "layers": 2, "draft": 3}
    result = benchmark.main([*(f"--{name}={size}" for name, size in sizes.items()), "--above=0"])
    assert result["draft"]["accepted"] == 1.0 and result["draft"]["tokens_per_pass"] == 3.25
    assert result["lookup"]["tokens_per_pass"] >= 1
