"""Criticism and new attempts, in exactly these contexts."""

from __future__ import annotations

from typing import Any

import pytest
from spoken import Spoken, number, render

from posttrain.errors import ConfigError
from posttrain.search.refinement import rci, self_refine
from posttrain.types import Text

REFINE: dict[str, Any] = {"feedback": "check", "refine": "again {problem}"}
RCI: dict[str, Any] = {"criticise": "check", "improve": "better {problem}"}
FIRST = "P 1\n\ncheck"
SECOND = "P 1\n\nchecklow\n\nagain P"


def test_feedback_until_it_is_correct(search) -> None:
    ask = Spoken(
        {
            "P": " 1",
            FIRST: "low",
            SECOND: " 2",
            "P 2\n\ncheck": "low too",  # feedback sees the newest attempt alone
            SECOND + " 2\n\nchecklow too\n\nagain P": " 3",
            "P 3\n\ncheck": "Yes, It is Correct.",
        }
    )
    s = search(self_refine(render("P"), ask, number, "P", render, **REFINE))
    assert (s.answer, s.index, len(s.candidates)) == ("3", 2, 3)
    assert s.notes == {"num_attempts": 3.0, "stopped": 1.0, "empty_feedback": 0.0}
    assert [c.context for c in ask.calls] == list(ask.replies)
    assert [c.temperature for c in ask.calls] == [None, 0.7, None, 0.7, None, 0.7]


def test_messages_are_a_conversation(search) -> None:
    chat: Text = [{"role": "user", "content": "P"}]
    before = "user: P\nassistant: 1\nuser: check"
    ask = Spoken(
        {
            "user: P": "1",
            before: "low",
            before + "\nassistant: low\nuser: again P": "2",
        }
    )
    s = search(self_refine(render(chat), ask, number, chat, render, max_attempts=2, **REFINE))
    assert s.answer == "2" and s.notes["stopped"] == 0


def test_refining_fails_without_harm(search) -> None:
    ask = Spoken({"P": " 1", FIRST: " \n"})
    s = search(self_refine(render("P"), ask, number, "P", render, **REFINE))
    assert s.answer == "1" and s.notes["empty_feedback"] == 1
    ask = Spoken({"P": " 1", FIRST: "low", SECOND: " none"})  # an attempt without an answer
    s = search(self_refine(render("P"), ask, number, "P", render, max_attempts=2, **REFINE))
    assert (s.answer, s.index, len(s.candidates)) == ("1", 0, 2)
    ask = Spoken(lambda context: " it is correct")
    s = search(self_refine((1,), ask, number, "P", render, stop_phrase="", max_attempts=3))
    assert s.answer is None and s.notes["num_attempts"] == 3
    with pytest.raises(ConfigError, match="max_attempts"):
        search(self_refine((1,), ask, number, "P", render, max_attempts=0))


def test_one_attempt_is_one_sample(search) -> None:
    ask = Spoken({"P": " 1"})
    s = search(self_refine(render("P"), ask, number, "P", render, max_attempts=1))
    assert (s.text, len(ask.calls)) == (" 1", 1)


def test_rci_is_one_conversation_until_an_answer_repeats(search) -> None:
    third = "P 1\n\nchecklow\n\nbetter P 2\n\ncheck"
    replies = {
        "P": " 1",
        FIRST: "low",
        "P 1\n\nchecklow\n\nbetter P": " 2",
        third: "fine",
        third + "fine\n\nbetter P": " so 2",
    }
    ask = Spoken(replies)
    s = search(rci(render("P"), ask, number, "P", render, max_rounds=5, **RCI))
    assert (s.text, s.index) == (" so 2", 2)
    assert s.notes == {"num_rounds": 2.0, "unchanged": 1.0, "empty_feedback": 0.0}
    assert [c.context for c in ask.calls] == list(replies)
    ask = Spoken(replies)
    s = search(rci(render("P"), ask, number, "P", render, max_rounds=1, **RCI))
    assert (s.answer, s.notes["num_rounds"], s.notes["unchanged"]) == ("2", 1.0, 0.0)
    ask = Spoken({"P": " 1", FIRST: ""})
    s = search(rci(render("P"), ask, number, "P", render, **RCI))
    assert s.answer == "1" and s.notes["empty_feedback"] == 1
    with pytest.raises(ConfigError, match="max_rounds"):
        search(rci((1,), ask, number, "P", render, max_rounds=0))


def test_attempts_without_an_answer_are_not_the_same(search) -> None:
    ask = Spoken(lambda context: " none")
    s = search(rci((1,), ask, number, "P", render, max_rounds=3))
    assert s.answer is None and s.notes["num_rounds"] == 3


@pytest.mark.parametrize("budget", range(14))
@pytest.mark.parametrize("strategy", [self_refine, rci])
def test_no_budget_is_exceeded(search, strategy: Any, budget: int) -> None:
    count = iter(range(10, 99))
    ask = Spoken(lambda context: str(next(count)), budget=budget)
    s = search(strategy((1,), ask, number, "P", render))
    assert ask.budget.num_tokens <= budget and s.index < len(s.candidates)
    assert (s.answer is None) == (budget == 0)
