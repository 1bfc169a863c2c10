"""Cues, a second reading and sub-questions, in exactly these contexts."""

from __future__ import annotations

from typing import Any

import pytest
from spoken import Spoken, number, render, text_of

from posttrain.errors import ConfigError
from posttrain.search.prompting import least_to_most, plan_and_solve, re_read, zero_shot_cot
from posttrain.types import Text, plain_text

PROBLEM = "Q: 7+5\nA:"
CHAT: Text = [{"role": "system", "content": "S"}, {"role": "user", "content": "7+5"}]


def test_a_chain_and_then_its_answer(search) -> None:
    begun = PROBLEM + " Let's think step by step."
    ask = Spoken(
        {begun: " 7 and 5 are 12. \n", begun + " 7 and 5 are 12.\nTherefore, the answer is": " 12."}
    )
    s = search(zero_shot_cot(render(PROBLEM), ask, number, render))
    assert s.text == (" Let's think step by step. 7 and 5 are 12.\nTherefore, the answer is 12.")
    assert (s.answer, s.index, s.notes) == ("12", 1, {"answers_of_chain": 0.0})
    assert [(c.stop, c.max_tokens) for c in ask.calls] == [((), None), (("\n",), 32)]
    assert [text_of(c.ids) for c in s.candidates] == [" 7 and 5 are 12. \n", " 12."]


def test_the_chain_answers_where_the_second_call_does_not(search) -> None:
    begun = PROBLEM + "?"
    ask = Spoken({begun: " 12", begun + " 12=": " well"})

    def at_the_end(text: str) -> str | None:
        return number(text) if text[-1:].isdigit() else None

    s = search(zero_shot_cot(render(PROBLEM), ask, at_the_end, render, cue="?", answer_cue="="))
    assert (s.text, s.answer, s.index, s.notes["answers_of_chain"]) == ("? 12", "12", 0, 1.0)
    ask = Spoken({begun: " no", begun + " no=": " well"})
    s = search(zero_shot_cot(render(PROBLEM), ask, at_the_end, render, cue="?", answer_cue="="))
    assert (s.answer, s.index, s.notes["answers_of_chain"]) == (None, 1, 0.0)


@pytest.mark.parametrize("strategy", [zero_shot_cot, plan_and_solve])
def test_without_cues_it_is_one_sample(search, strategy: Any) -> None:
    ask = Spoken({PROBLEM: " 12"})
    s = search(strategy(render(PROBLEM), ask, number, render, cue="", answer_cue=""))
    assert (s.text, s.index, len(ask.calls)) == (" 12", 0, 1)
    assert ask.calls[0].context == PROBLEM and s.candidates[0].context_ids == render(PROBLEM)


def test_an_answer_needs_tokens(search) -> None:
    with pytest.raises(ConfigError, match="max_answer_tokens"):
        search(zero_shot_cot(render(PROBLEM), Spoken({}), number, render, max_answer_tokens=0))


def test_a_plan_is_another_cue(search) -> None:
    ask = Spoken(lambda context: " 12")
    s = search(plan_and_solve(render(PROBLEM), ask, number, render))
    assert ask.calls[0].context.startswith(PROBLEM + " Let's first understand the problem and")
    assert "step by step. 12\nTherefore" in s.text


def test_the_question_is_read_twice(search) -> None:
    twice = f"{PROBLEM}\nRead the question again: {PROBLEM}"
    ask = Spoken({twice: " 12"})
    s = search(re_read(render(PROBLEM), ask, number, render, PROBLEM, render))
    assert (s.text, s.answer, len(ask.calls)) == (" 12", "12", 1)
    ask = Spoken({plain_text(CHAT).replace("7+5", "7+5\nRead the question again: 7+5"): "12"})
    s = search(re_read(render(CHAT), ask, number, render, CHAT, render))
    assert s.answer == "12"
    ask = Spoken({PROBLEM: " 12"})
    s = search(re_read(render(PROBLEM), ask, number, render, PROBLEM, render, template="{problem}"))
    assert s.text == " 12" and s.candidates[0].context_ids == render(PROBLEM)
    with pytest.raises(ConfigError, match=r"re_read\.template"):
        search(re_read((1,), ask, number, render, PROBLEM, render, template="again"))


ASKS: dict[str, Any] = {
    "decompose": "{problem} parts?",
    "ask_part": "{problem} first {question}",
    "ask_whole": "now {problem}",
}


def test_sub_questions_are_answered_in_order(search) -> None:
    ask = Spoken(
        {
            "user: P parts?": "1. a\n2. b\n3. c",
            "user: P first a": "A",
            "user: P first a\nassistant: A\nuser: first b": "B",
            "user: P first a\nassistant: A\nuser: first b\nassistant: B\nuser: now P": "12",
        }
    )
    chat: Text = [{"role": "user", "content": "P"}]
    s = search(least_to_most((1,), ask, number, chat, render, max_questions=2, **ASKS))
    assert (s.answer, s.index, s.notes) == ("12", 2, {"num_questions": 2.0})
    assert [c.context for c in ask.calls] == list(ask.replies)  # in this order
    ask = Spoken({"P parts?": "a", "P first a": " A", "P first a A\n\nnow P": " 12"})
    s = search(least_to_most((1,), ask, number, "P", render, **ASKS))
    assert s.answer == "12" and [c.text for c in s.candidates] == [" A", " 12"]


def test_no_sub_question_asks_the_prompt(search) -> None:
    ask = Spoken({"P parts?": "\n", "P": " 12"})
    s = search(least_to_most(render("P"), ask, number, "P", render, **ASKS))
    assert (s.text, s.notes, len(s.candidates)) == (" 12", {"num_questions": 0.0}, 1)
    with pytest.raises(ConfigError, match=r"least_to_most\.ask_part.*question"):
        search(least_to_most((1,), ask, number, "P", render, ask_part="{problem}"))


@pytest.mark.parametrize("budget", range(12))
def test_a_cut_leaves_the_last_answer(search, budget: int) -> None:
    """ "parts" cost 3 tokens, each answer 2; nothing is sampled beyond the budget."""
    replies = {
        "P parts?": "a\nb",
        "P first a": "11",
        "P first a11\n\nfirst b": "22",
        "P first a11\n\nfirst b22\n\nnow P": "33",
        "P": "55",
    }
    ask = Spoken(replies, budget=budget)
    s = search(least_to_most(render("P"), ask, number, "P", render, **ASKS))
    assert ask.budget.num_tokens <= budget
    answers = [None, None, None, None, "1", "11", "2", "22", "3"]
    assert s.answer == (answers[budget] if budget < 9 else "33")


@pytest.mark.parametrize("budget", range(60))
def test_no_budget_is_exceeded(search, budget: int) -> None:
    for strategy in (zero_shot_cot, plan_and_solve):
        ask = Spoken(lambda context: " 7 and 5 are 12", budget=budget)
        s = search(strategy(render(PROBLEM), ask, number, render))
        assert ask.budget.num_tokens <= budget and 0 <= s.index < len(s.candidates)
