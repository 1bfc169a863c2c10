"""Demonstrations in the prompt, given and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from spoken import Spoken, number, render

import posttrain as pt
from posttrain.errors import ConfigError, DataError
from posttrain.search.demonstrations import auto_cot, clusters, demonstrated, few_shot
from posttrain.types import Text, plain_text

PROBLEM = "Q: 7+5\nA:"
SHOTS = [
    {"prompt": "Q: 1+1\nA:", "completion": " 2"},
    {"prompt": "Q: 2+2\nA:", "completion": " 4"},
]
CHAT: Text = [{"role": "system", "content": "S"}, {"role": "user", "content": "7+5"}]


def test_demonstrations_stand_before_the_problem(search, tmp_path: Path) -> None:
    context = "Q: 1+1\nA: 2\n\nQ: 2+2\nA: 4\n\n" + PROBLEM
    file = tmp_path / "shots.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in SHOTS))
    for given in (SHOTS, str(file)):
        ask = Spoken({context: " 12"})
        s = search(few_shot((1,), ask, number, PROBLEM, render, demonstrations=given))
        assert (s.text, s.answer, s.notes) == (" 12", "12", {"num_demonstrations": 2.0})
    ask = Spoken({"Q: 1+1\nA: 2;" + PROBLEM: " 12"})
    settings: dict[str, Any] = {"num_demonstrations": 1, "separator": ";"}
    s = search(few_shot((1,), ask, number, PROBLEM, render, demonstrations=SHOTS, **settings))
    assert s.notes["num_demonstrations"] == 1


def test_in_messages_they_are_turns_behind_the_system_message(search) -> None:
    rows = [
        {"prompt": "1+1", "completion": " 2"},
        {
            "prompt": [{"role": "user", "content": "2+2"}],
            "completion": [{"role": "assistant", "content": "4"}],
        },
    ]
    turns = "system: S\nuser: 1+1\nassistant: 2\nuser: 2+2\nassistant: 4\nuser: 7+5"
    ask = Spoken({turns: "12"})
    assert search(few_shot((1,), ask, number, CHAT, render, demonstrations=rows)).answer == "12"
    alone = demonstrated(CHAT[1:], [("1+1", "2")], "")
    assert plain_text(alone) == "user: 1+1\nassistant: 2\nuser: 7+5"


def test_the_problem_is_no_demonstration(search) -> None:
    rows = [*SHOTS, {"prompt": "Q:  7+5\nA: ", "completion": " 12"}]
    with pytest.raises(ConfigError, match="is the problem itself"):
        search(few_shot((1,), Spoken({}), number, PROBLEM, render, demonstrations=rows))
    with pytest.raises(ConfigError, match="is the problem itself"):
        pt.run_search("embedded", PROBLEM, pt.strategy.few_shot(demonstrations=rows))
    ask = Spoken(lambda context: " 12")  # it is not among those that are shown
    search(few_shot((1,), ask, number, PROBLEM, render, demonstrations=rows, num_demonstrations=2))
    assert " 12" not in ask.calls[0].context
    for row in ({"prompt": "x"}, {"prompt": "", "completion": "x"}, "x"):
        with pytest.raises(DataError, match="demonstration 0"):
            search(few_shot((1,), Spoken({}), number, PROBLEM, render, demonstrations=[row]))
    with pytest.raises(DataError, match="no file"):
        search(few_shot((1,), Spoken({}), number, PROBLEM, render, demonstrations="none.jsonl"))


def test_without_demonstrations_it_is_one_sample(search) -> None:
    ask = Spoken({PROBLEM: " 12"})
    s = search(few_shot(render(PROBLEM), ask, number, PROBLEM, render))
    assert (s.text, len(ask.calls), s.notes) == (" 12", 1, {"num_demonstrations": 0.0})


def test_clusters_of_similar_texts() -> None:
    apples = ["How many apples has Tom?", "How many apples has Ann?", "How many apples has Bo?"]
    trains = ["The train leaves at 9", "The train leaves at 8"]
    groups = clusters([*apples, *trains, apples[0]], 2)
    assert sorted(map(sorted, groups)) == sorted([sorted(apples), sorted(trains)])
    assert clusters([], 3) == [] and clusters(["a", "a"], 3) == [["a"]]
    assert sorted(clusters(["abc", "xyz"], 5)) == [["abc"], ["xyz"]]
    assert clusters([*apples, *trains], 2) == clusters([*apples, *trains], 2)


ASKED: dict[str, Any] = {"cue": "?", "answer_cue": "", "num_demonstrations": 2}


def test_demonstrations_are_written_first(search) -> None:
    ask = Spoken({"aaaa?": " 1", "zzzz?": " 2", "aaaa? 1\n\nzzzz? 2\n\n7+5?": " 12"})
    questions = ["aaaa", "zzzz", "7+5", " 7+5"]  # the problem is not shown
    s = search(auto_cot((1,), ask, number, render, "7+5", render, questions=questions, **ASKED))
    assert (s.text, s.answer) == ("? 12", "12")
    assert s.notes == {
        "answers_of_chain": 0.0,
        "num_demonstrations": 2.0,
        "demonstration_tokens": 4.0,
    }
    assert ask.budget.num_tokens == 7  # the demonstrations are paid for
    assert [c.temperature for c in ask.calls] == [0.0, 0.0, None]


def test_only_simple_demonstrations(search, tmp_path: Path) -> None:
    """A long question, a long chain and a chain without an answer are passed over."""
    file = tmp_path / "questions.jsonl"
    rows = [{"prompt": q} for q in ("aaaa", "aaab" * 9, "aaac", "zzzz")]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ask = Spoken({"aaaa?": "1\n2\n3", "aaac?": " 5", "zzzz?": " no", "aaac? 5\n\n7+5?": " 12"})
    more: dict[str, Any] = {"max_question_tokens": 8, "max_chain_lines": 2}
    given: dict[str, Any] = {"questions": str(file), **ASKED, **more}
    s = search(auto_cot((1,), ask, number, render, "7+5", render, **given))
    assert s.answer == "12" and s.notes["num_demonstrations"] == 1
    with pytest.raises(DataError, match="question 0"):
        search(auto_cot((1,), ask, number, render, "7+5", render, questions=[""]))


def test_without_questions_it_is_zero_shot(search) -> None:
    replies = {"7+5?": " is", "7+5? is=": " 12"}
    ask = Spoken(replies)
    cues = {"cue": "?", "answer_cue": "="}
    s = search(auto_cot(render("7+5"), ask, number, render, "7+5", render, **cues))
    assert s.text == "? is= 12" and s.notes["demonstration_tokens"] == 0


@pytest.mark.parametrize("budget", range(8))
def test_no_budget_is_exceeded(search, budget: int) -> None:
    ask = Spoken(lambda context: " 12", budget=budget)
    s = search(
        auto_cot((1,), ask, number, render, "7+5", render, questions=["aaaa", "zzzz"], **ASKED)
    )
    assert ask.budget.num_tokens <= budget and s.index < len(s.candidates)
