"""Answers that questions or a calculator check."""

from __future__ import annotations

from typing import Any

import pytest
from spoken import Spoken, number, render

from posttrain.errors import ConfigError
from posttrain.search.verification import chain_of_verification, critic, wrong_equations
from posttrain.types import Text

ASK: dict[str, Any] = {"plan": "questions?", "verify": "{problem}|{answer}|{checks}"}


def test_questions_are_answered_apart(search) -> None:
    replies = {
        "P": " 1",
        "P 1\n\nquestions?": "1. Is it a?\n2. Is it b?\n3. Is it c?",
        "Is it a?": "yes",
        "Is it b?": " no\n",
        "P|1|Is it a? yes\nIs it b? no": "2",
    }
    ask = Spoken(replies)
    settings = {**ASK, "max_questions": 2}
    s = search(chain_of_verification(render("P"), ask, number, "P", render, **settings))
    assert (s.text, s.index, s.notes) == ("2", 1, {"num_questions": 2.0, "changed": 1.0})
    assert [c.context for c in ask.calls] == list(replies)


def test_messages_keep_their_system_message(search) -> None:
    chat: Text = [{"role": "system", "content": "S"}, {"role": "user", "content": "P"}]
    replies = {
        "system: S\nuser: P": "1",
        "system: S\nuser: P\nassistant: 1\nuser: questions?": "a",
        "system: S\nuser: Q: a": "yes",
        "system: S\nuser: P|1|a yes": "1",
    }
    ask = Spoken(replies)
    settings = {**ASK, "check": "Q: {question}"}
    s = search(chain_of_verification(render(chat), ask, number, chat, render, **settings))
    assert s.answer == "1" and s.notes == {"num_questions": 1.0, "changed": 0.0}


def test_the_first_answer_stands_where_checks_fail(search) -> None:
    ask = Spoken({"P": " 1", "P 1\n\nquestions?": " \n"})
    s = search(chain_of_verification(render("P"), ask, number, "P", render, **ASK))
    assert (s.answer, len(ask.calls), s.notes["num_questions"]) == ("1", 2, 0.0)
    ask = Spoken({"P": " 1", "P 1\n\nquestions?": "a", "a": " "})  # no reply to the question
    s = search(chain_of_verification(render("P"), ask, number, "P", render, **ASK))
    assert (s.answer, len(ask.calls)) == ("1", 3)
    ask = Spoken({"P": " 1", "P 1\n\nquestions?": "a", "a": "b", "P|1|a b": "none"})
    s = search(chain_of_verification(render("P"), ask, number, "P", render, **ASK))
    assert (s.answer, s.index, s.notes["changed"]) == ("1", 0, 0.0)
    for setting in ({"max_questions": 0}, {"check": "?"}, {"verify": "{problem}"}):
        with pytest.raises(ConfigError, match="chain_of_verification"):
            search(chain_of_verification((1,), ask, number, "P", render, **setting))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7+5=12\n12*3=36", []),
        ("7+5=13\n13*3=39\n#### 39", ["7+5=13 is wrong: 7+5=12"]),
        ("7 + 5 = 13, 7+5=13", ["7+5=13 is wrong: 7+5=12"]),
        ("7+5*3=36", []),  # from left to right
        ("7+5*3=22", []),  # with precedence
        ("7+5*3=30", ["7+5*3=30 is wrong: 7+5*3=22"]),
        ("3-8=-5", []),
        ("3-8=5", ["3-8=5 is wrong: 3-8=-5"]),
        ("x = 5, 1.5+2=4, 2+2=4.5, 2+2=3+1, 2/3=7", []),  # nothing of whole numbers
        ("2+2=5. Then", ["2+2=5 is wrong: 2+2=4"]),
        ("2+2=5\n- 3 apples", ["2+2=5 is wrong: 2+2=4"]),
        ("2+2=5.", ["2+2=5 is wrong: 2+2=4"]),
        ("", []),
    ],
)
def test_the_calculator(text: str, expected: list[str]) -> None:
    assert wrong_equations(text) == expected


def test_errors_are_corrected(search) -> None:
    findings = "7+5=13 is wrong: 7+5=12"
    replies = {
        "P": " 7+5=13\n13*3=40",
        f"P 7+5=13\n13*3=40\n\n[{findings}\n13*3=40 is wrong: 13*3=39] P": " 7+5=12\n12*3=36",
    }
    ask = Spoken(replies)
    s = search(critic(render("P"), ask, number, "P", render, correct="[{findings}] {problem}"))
    assert (s.answer, s.index) == ("36", 1) and [c.context for c in ask.calls] == list(replies)
    assert s.notes == {"num_rounds": 1.0, "errors_first": 2.0, "errors_last": 0.0}


def test_a_right_answer_is_one_sample(search) -> None:
    ask = Spoken({"P": " 7+5=12"})
    s = search(critic(render("P"), ask, number, "P", render))
    assert (s.text, len(ask.calls), s.notes["num_rounds"]) == (" 7+5=12", 1, 0.0)


def test_corrections_are_bounded(search) -> None:
    ask = Spoken(lambda context: " 7+5=13")
    s = search(critic((1,), ask, number, "P", render, max_rounds=2))
    assert (len(ask.calls), s.index, s.notes["errors_last"]) == (3, 2, 1.0)
    for setting in ({"max_rounds": 0}, {"correct": "again"}):
        with pytest.raises(ConfigError, match="critic"):
            search(critic((1,), ask, number, "P", render, **setting))  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", range(30))
@pytest.mark.parametrize("strategy", [chain_of_verification, critic])
def test_no_budget_is_exceeded(search, strategy: Any, budget: int) -> None:
    ask = Spoken(lambda context: "7+5=13\n", budget=budget)
    s = search(strategy((1,), ask, number, "P", render))
    assert ask.budget.num_tokens <= budget and (s.answer is None) == (budget == 0)
