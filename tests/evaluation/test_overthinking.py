"""Where a completion is right first, on invented tokens and on the embedded model."""

from __future__ import annotations

import pytest

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.evaluation.overthinking import (
    Thought,
    line_ends,
    overthinking_notes,
    thought_of,
)
from posttrain.tasks.arithmetic import arithmetic
from posttrain.types import Example, Sample, Task


def decode(ids: list[int]) -> str:
    return "".join(chr(i) for i in ids)


def is_right(text: str) -> bool:
    return text.strip().rpartition("\n")[2] == "5"


def of(text: str) -> Thought:
    return thought_of([ord(c) for c in text], text, decode, is_right)


def test_where_a_completion_is_right_first() -> None:
    assert of("2+3\n5\nwait\n5") == Thought(12, 6, True)
    assert of("2+3\n5") == Thought(5, 5, True)
    assert of("5\nno, 6") == Thought(7, 2, False)
    assert of("6\n7") == Thought(3, None, False)
    assert of("") == Thought(0, None, False)
    assert of("2+3\n5\nwait\n5").tokens_after == 6
    assert of("6").tokens_after is None and of("6").efficiency == 0.0
    assert line_ends([ord(c) for c in "a\nb\n"], decode) == [2, 4]


def test_means_of_a_problem() -> None:
    texts = ["5\n5", "6", "5\n6"]
    samples = [Sample([ord(c) for c in t], [], [], "stop") for t in texts]
    task = Task("t", [], lambda text, e: float(is_right(text)), str.strip)
    notes = overthinking_notes(samples, texts, decode, task, Example("p"))
    assert notes["tokens_after_right"] == 1.0
    assert notes["outcome_efficiency"] == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)
    assert notes["undone"] == pytest.approx(1 / 3)
    assert "tokens_after_right" not in overthinking_notes(
        samples[1:2], texts[1:2], decode, task, Example("p")
    )


def test_an_evaluation_reports_it_where_it_is_asked_for() -> None:
    sums = arithmetic(num_steps=1, num_examples=8, split="test")
    plain = pt.evaluate("embedded", sums, num_samples=2)
    asked = pt.evaluate("embedded", sums, num_samples=2, overthinking=True)
    assert "outcome_efficiency" not in plain.metrics()
    metrics = asked.metrics()
    assert metrics["accuracy"] == plain.metrics()["accuracy"]
    # The task grades what stands at the very end, and the model ends there.
    assert metrics["tokens_after_right"] < 3 and 0 < metrics["outcome_efficiency"] <= 1
    assert "after the first right" in str(asked)
    with pytest.raises(ConfigError):
        pt.evaluate("embedded", sums, search=pt.majority_vote(num_samples=2), overthinking=True)
