"""Problems that are rewritten until their answers agree."""

from __future__ import annotations

from typing import Any

import pytest
from spoken import Spoken, number, render

from posttrain.errors import ConfigError
from posttrain.search.polish import self_polish
from posttrain.types import Text

ASK: dict[str, Any] = {"polish": "{problem} clearer?"}


def test_it_ends_when_two_answers_agree(search) -> None:
    replies = {
        "P": "1",
        "P clearer?": " P2\n",
        "P2": "2",
        "P2 clearer?": "P3",  # a rewriting sees the newest form alone
        "P3": "so 2",
    }
    ask = Spoken(replies)
    s = search(self_polish(render("P"), ask, number, "P", render, **ASK))
    assert (s.text, s.index) == ("so 2", 2)
    assert s.notes == {"num_rounds": 2.0, "stable": 1.0, "unchanged": 0.0}
    assert [c.context for c in ask.calls] == list(replies)
    ask = Spoken(replies)
    s = search(self_polish(render("P"), ask, number, "P", render, max_rounds=1, **ASK))
    assert (s.answer, s.notes["stable"]) == ("2", 0.0)


def test_only_the_question_is_rewritten(search) -> None:
    chat: Text = [{"role": "system", "content": "S"}, {"role": "user", "content": "P"}]
    replies = {
        "system: S\nuser: P": "1",
        "system: S\nuser: P clearer?": "P2",
        "system: S\nuser: Q: P2": "1",
    }
    ask = Spoken(replies)
    s = search(self_polish(render(chat), ask, number, chat, render, template="Q: {problem}", **ASK))
    assert s.answer == "1" and [c.context for c in ask.calls] == list(replies)


@pytest.mark.parametrize("written", ["", " \n", " P "])
def test_a_rewriting_that_changes_nothing_ends_it(search, written: str) -> None:
    ask = Spoken({"P": "1", "P clearer?": written})
    s = search(self_polish(render("P"), ask, number, "P", render, **ASK))
    assert (s.answer, s.notes["unchanged"], len(ask.calls)) == ("1", 1.0, 2)


def test_no_answer_is_not_stable(search) -> None:
    forms = iter("abcdefgh")
    ask = Spoken(lambda context: next(forms))
    s = search(self_polish((1,), ask, number, "P", render))
    assert s.answer is None and s.notes == {"num_rounds": 3.0, "stable": 0.0, "unchanged": 0.0}


def test_settings_are_checked(search) -> None:
    for setting in ({"max_rounds": 0}, {"polish": "clearer"}, {"template": "Q"}):
        with pytest.raises(ConfigError, match=rf"self_polish.*{next(iter(setting))}"):
            search(self_polish((1,), Spoken({}), number, "P", render, **setting))  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", range(16))
def test_no_budget_is_exceeded(search, budget: int) -> None:
    count = iter(range(10, 99))
    ask = Spoken(lambda context: str(next(count)), budget=budget)
    s = search(self_polish((1,), ask, number, "P", render))
    assert ask.budget.num_tokens <= budget and (s.answer is None) == (budget == 0)
