"""Verdicts on countdown expressions."""

from __future__ import annotations

from typing import Any

from posttrain import registry
from posttrain.tasks.countdown import evaluate
from posttrain.types import Task


def make(name: str, **options: Any) -> Task:
    return registry.tasks.bind(name, options)()


def test_countdown_refuses_tricks() -> None:
    task = make("countdown", num_examples=1)
    example = task.examples[0]
    example.columns["numbers"][:] = [3, 4, 5]
    object.__setattr__(example, "columns", {"numbers": [3, 4, 5], "target": 17})
    for text, right in (
        ("3*4+5", 1),
        ("(3*4)+5 = 17", 1),
        ("5+3*4\nmore", 1),
        ("17", 0),
        ("12+5", 0),
        ("3*4+5+0", 0),
        ("3*4+5+5-5", 0),
        ("3**4", 0),
        ("__import__('os')", 0),
        ("5/(3-3)", 0),
        ("4+3*4+1", 0),
        ("", 0),
        ("(" * 150, 0),
    ):
        assert task.score(text, example) == right, text
    assert evaluate("9" * 300) is None and evaluate("1/3") is not None
