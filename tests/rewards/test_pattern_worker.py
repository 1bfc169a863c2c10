"""The process that searches for regular expressions, asked over its pipes."""

from __future__ import annotations

import io
import json
import sys

import pytest

from posttrain.rewards import pattern_worker
from posttrain.rewards.worker import Worker


def answers(requests: list[object], monkeypatch: pytest.MonkeyPatch) -> list[object]:
    given, written = io.StringIO("".join(json.dumps(r) + "\n" for r in requests)), io.StringIO()
    monkeypatch.setattr(sys, "stdin", given)
    monkeypatch.setattr(sys, "stdout", written)
    pattern_worker.main()
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_it_says_ready_and_answers_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [["a.c", "xxa\ncx"], ["^b", "ab"], ["a", "\u00e4"], ["", ""]]
    assert answers(list(requests), monkeypatch) == ["ready", True, False, False, True]


def test_it_ends_with_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    assert answers([], monkeypatch) == ["ready"]


def test_a_search_that_hangs_can_be_killed_and_the_next_is_answered() -> None:
    worker = Worker("posttrain.rewards.pattern_worker")
    try:
        assert worker.ask(["b+", "abb"], 30.0) is True
        assert worker.ask(["(a+)+$", "a" * 40 + "b"], 0.3) is None
        assert worker.ask(["c", "abb"], 30.0) is False
    finally:
        worker.kill()
