"""The process that judges mathematical equality."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest

from posttrain.rewards import math_worker


def answers(requests: list[Any], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    given, written = io.StringIO("".join(json.dumps(r) + "\n" for r in requests)), io.StringIO()
    monkeypatch.setattr(sys, "stdin", given)
    monkeypatch.setattr(sys, "stdout", written)
    # limits are those of a process of its own, and this one goes on
    monkeypatch.setattr(math_worker, "limit_memory", lambda: None)
    monkeypatch.setattr("logging.disable", lambda level: None)
    math_worker.main()
    return [json.loads(line) for line in written.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("gold", "prediction", "equal"),
    [
        (r"\frac{1}{2}", "0.5", True),
        ("$x + 1$", "1 + x", True),
        ("2", "3", False),
        ("2", "", False),
    ],
)
def test_equality(gold: str, prediction: str, equal: bool) -> None:
    pytest.importorskip("math_verify")
    assert math_worker.judge(gold, prediction) is equal


def test_a_pair_that_cannot_be_judged_is_told_and_the_next_is_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("math_verify")
    real = math_worker.judge

    def judge(gold: str, prediction: str) -> bool:
        if prediction == "bad":
            raise RecursionError("too deep")
        return real(gold, prediction)

    monkeypatch.setattr(math_worker, "judge", judge)
    told = answers([["1", "1"], ["1", "bad"], ["1", "2"]], monkeypatch)
    assert told == ["ready", True, "RecursionError: too deep", False]


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    assert answers([["1", "1"]], monkeypatch) == ["missing"]


def test_memory_is_bounded_where_the_system_can(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    limits: list[Any] = []
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: limits.append((kind, pair)))
    math_worker.limit_memory(1 << 20)
    assert limits == [(resource.RLIMIT_AS, (1 << 20, 1 << 20))]

    def refuse(kind: Any, pair: Any) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    math_worker.limit_memory(1 << 20)  # goes on without a bound
