"""Attempts with a verdict and a memory, in exactly these contexts."""

from __future__ import annotations

import math
from typing import Any

import pytest
from spoken import Spoken, number, render

from posttrain.errors import ConfigError
from posttrain.search.reflection import reflexion

ASK: dict[str, Any] = {"reflect": "why?", "recall": "[{reflections}] {problem}"}


def verdict(scores: Any) -> Any:
    """Scores by answer; -inf for others."""
    return scores(lambda c: {"3": 1.0, "2": 0.5, "1": 0.2}.get(str(number(c.text)), -math.inf))


def test_reflections_are_remembered(search, scores) -> None:
    replies = {
        "P": " 1",
        "P 1\n\nwhy?": "too low\n",
        "[- too low] P": " 2",
        "P 2\n\nwhy?": "still",
        "[- too low\n- still] P": " 3",
    }
    ask = Spoken(replies)
    s = search(reflexion(render("P"), ask, number, verdict(scores), "P", render, **ASK))
    assert (s.answer, s.index, [c.score for c in s.candidates]) == ("3", 2, [0.2, 0.5, 1.0])
    assert s.notes == {"num_attempts": 3.0, "passed": 1.0, "empty_feedback": 0.0}
    assert [c.context for c in ask.calls] == list(replies)


def test_the_memory_is_bounded(search, scores) -> None:
    ask = Spoken(
        {
            "P": " 1",
            "P 1\n\nwhy?": "a",
            "[- a] P": " 2",
            "P 2\n\nwhy?": "b",
            "[- b] P": " 0",
        }
    )
    settings = {**ASK, "max_reflections": 1}
    s = search(reflexion(render("P"), ask, number, verdict(scores), "P", render, **settings))
    assert (s.answer, s.notes["passed"]) == ("2", 0.0)  # the best, and not the last


def test_it_stops_at_the_threshold(search, scores) -> None:
    ask = Spoken({"P": " 2"})
    s = search(reflexion(render("P"), ask, number, verdict(scores), "P", render, threshold=0.5))
    assert (s.answer, len(ask.calls), s.notes["passed"]) == ("2", 1, 1.0)
    ask = Spoken({"P": " 1"})
    s = search(reflexion(render("P"), ask, number, verdict(scores), "P", render, max_attempts=1))
    assert (s.text, len(ask.calls)) == (" 1", 1)  # one sample


def test_an_empty_reflection_is_not_remembered(search, scores) -> None:
    ask = Spoken({"P": [" 1", " none"], "P 1\n\nwhy?": " "})
    settings = {**ASK, "max_attempts": 2}
    s = search(reflexion(render("P"), ask, number, verdict(scores), "P", render, **settings))
    assert [c.context for c in ask.calls] == ["P", "P 1\n\nwhy?", "P"]
    assert (s.answer, s.notes["empty_feedback"]) == ("1", 1.0)  # no score is below any other


def test_settings_are_checked(search, scores) -> None:
    for setting in ({"max_attempts": 0}, {"max_reflections": 0}, {"recall": "{problem}"}):
        with pytest.raises(ConfigError, match=r"reflexion"):
            search(
                reflexion((1,), Spoken({}), number, verdict(scores), "P", render, **setting)  # type: ignore[arg-type]
            )


@pytest.mark.parametrize("budget", range(14))
def test_no_budget_is_exceeded(search, scores, budget: int) -> None:
    count = iter(range(10, 99))
    ask = Spoken(lambda context: str(next(count)), budget=budget)
    s = search(reflexion((1,), ask, number, scores(lambda c: 0.0), "P", render))
    assert ask.budget.num_tokens <= budget and (s.answer is None) == (budget == 0)
