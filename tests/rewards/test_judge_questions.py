"""The words that judges, critics and revisers are asked in."""

from __future__ import annotations

from typing import Any

from posttrain.rewards.judge_questions import (
    as_prompt,
    as_reply,
    content,
    criterion_question,
    critique_prompt,
    pair_question,
    rating_question,
    reasoned_question,
    revision_prompt,
)

CHAT: list[dict[str, Any]] = [{"role": "user", "content": "1+1?"}]
ANSWERED = [{"role": "assistant", "content": "2"}]


def test_a_question_holds_what_is_judged() -> None:
    questions = [
        pair_question("Q", "one", "two", "I"),
        rating_question("Q", "one", 7, "I"),
        criterion_question("Q", "one", "short", "I"),
        reasoned_question("Q", "one", "I"),
    ]
    assert all(q.startswith("I\n\nQuestion:\nQ\n\nAnswer") and "one" in q for q in questions)
    assert "Answer B:\ntwo" in questions[0] and "to 7 (best)" in questions[1]
    assert "Criterion: short\n" in questions[2] and "Verdict: yes" in questions[3]
    assert questions[1] == rating_question("Q", [{"role": "assistant", "content": "one"}], 7, "I")


def test_text_and_turns() -> None:
    assert as_prompt("q", chat=False) == "q\nReply:" and as_reply("A", chat=False) == " A"
    assert as_prompt("q", chat=True) == [{"role": "user", "content": "q"}]
    assert as_reply("A", chat=True) == "A"
    assert content([*CHAT, *ANSWERED]) == "1+1?\n2"


def test_a_critique_and_a_revision_follow_the_answer() -> None:
    asked = critique_prompt("Q: 1+1\nA:", " 3", "It is right.")
    assert isinstance(asked, str) and asked.startswith("Q: 1+1\nA: 3\n\nSay briefly")
    assert asked.endswith("principle: It is right.\n")
    revised = revision_prompt("Q: 1+1\nA:", " 3", "It is right.", "It is 2.")
    assert isinstance(revised, str) and revised.startswith(asked + "It is 2.\n\nNow rewrite")
    assert revised.endswith("\n\nQ: 1+1\nA:")
    turns = revision_prompt(CHAT, "3", "It is right.", "It is 2.")
    assert [m["role"] for m in turns if isinstance(m, dict)] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert turns[:3] == critique_prompt(CHAT, "3", "It is right.")
