"""The monitor of generations, on hand-worked samples."""

from __future__ import annotations

from collections import Counter

import pytest

from posttrain.evaluation.collapse import answers_of, effective_number, generation_metrics
from posttrain.types import Example, Sample, Trace, TraceGroup


def group(name: str, texts: list[str], rewards: list[float | None]) -> TraceGroup:
    sample = Sample([1], [0.0], [0.0], "stop")
    traces = [
        Trace.of_sample((1,), sample, t, rewards={}, reward=r, advantage=0.0)
        for t, r in zip(texts, rewards, strict=True)
    ]
    return TraceGroup(Example("p", id=name), (1,), traces)


FIRST = [group("a", ["7", "7", "8", "9"], [1, 1, 0, 0]), group("b", ["x", "y"], [0, None])]
LATER = [group("a", ["7", "7", "7", "9"], [1, 1, 1, 0]), group("c", ["z"], [0])]


def test_the_first_generation_covers_itself() -> None:
    metrics = generation_metrics(FIRST, answers_of(FIRST))
    assert metrics["collapse/accuracy"] == pytest.approx(2 / 6)
    assert metrics["collapse/solved"] == 0.5
    assert metrics["collapse/coverage"] == metrics["collapse/tail"] == 1.0
    # a: shares 1/2, 1/4, 1/4, so 2^1.5 answers; b: 2.
    assert metrics["collapse/answers"] == pytest.approx((2**1.5 + 2) / 2)


def test_a_later_one_is_compared_on_its_prompts() -> None:
    metrics = generation_metrics(LATER, answers_of(FIRST))
    assert metrics["collapse/coverage"] == pytest.approx(2 / 3)  # 7 and 9 of 7, 8, 9
    assert metrics["collapse/tail"] == 0.5  # 9 of 8 and 9
    assert metrics["collapse/accuracy"] == pytest.approx(3 / 5)
    alone = generation_metrics(LATER[1:], answers_of(FIRST))
    assert "collapse/coverage" not in alone


def test_answers_are_extracted_where_they_can_be() -> None:
    def last(text: str) -> str | None:
        return text.split()[-1] if "=" in text else None

    groups = [group("a", ["1 + 1 = 2", "= 2", " two "], [1, 1, 0])]
    assert answers_of(groups, last) == {"a": Counter({"2": 2, "two": 1})}


def test_the_effective_number_of_answers() -> None:
    assert effective_number({"a": 2, "b": 2, "c": 2}) == 3.0
    assert effective_number({"a": 4}) == 1.0 and effective_number({}) == 0.0
