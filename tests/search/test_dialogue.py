"""Contexts of strategies that give instructions."""

from __future__ import annotations

import pytest

from posttrain.errors import ConfigError
from posttrain.search.base import Candidate
from posttrain.search.dialogue import (
    check_template,
    filled,
    followed,
    is_cut,
    last_answered,
    lines_of,
    question_of,
    rewritten,
)
from posttrain.types import Message

CHAT: list[Message] = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U1"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "U2"},
]


def test_the_question_is_the_last_user_turn() -> None:
    assert question_of("7+5") == "7+5" and question_of(CHAT) == "U2" and question_of([]) == ""
    assert question_of([{"role": "system", "content": "S"}]) == "S"
    assert rewritten("7+5", "x") == "x"
    assert rewritten(CHAT, "x") == [*CHAT[:3], {"role": "user", "content": "x"}]
    assert CHAT[3]["content"] == "U2"  # the problem itself is left as it is


def test_what_is_said_since_stands_behind() -> None:
    turns = [(" a1", "try\n"), (" a2", "again\n")]
    assert followed("Q:", turns) == "Q: a1\n\ntry\n a2\n\nagain\n"
    assert followed(CHAT, turns)[4:] == [
        {"role": "assistant", "content": " a1"},
        {"role": "user", "content": "try"},
        {"role": "assistant", "content": " a2"},
        {"role": "user", "content": "again"},
    ]
    assert followed("Q:", []) == "Q:" and followed(CHAT, []) == CHAT


def test_what_is_filled_in_is_not_read_again() -> None:
    assert filled("{a} {b} {c}", a="{b}", b="x") == "{b} x {c}"
    check_template("s.t", "{a} {b}", ("a", "b"))
    with pytest.raises(ConfigError, match=r"s\.t.*\{b\}"):
        check_template("s.t", "{a} b", ("a", "b"))


def test_items_of_a_list() -> None:
    text = "1. How many?\n\n 2) How far?\n- How far?\n(3) 12 apples?\nQ4: Why?\n* 7+5?\n5"
    assert lines_of(text, 9) == ["How many?", "How far?", "12 apples?", "Why?", "7+5?", "5"]
    assert lines_of(text, 2) == ["How many?", "How far?"] and lines_of(" \n", 3) == []


def test_the_last_answer() -> None:
    def answer(text: str) -> str | None:
        return text if text.isdigit() else None

    def of(*texts: str) -> list[Candidate]:
        return [Candidate((1,), text, 0.0, True) for text in texts]

    assert last_answered(of("1", "2", "x", ""), answer) == 1
    assert last_answered(of("x", "y", " "), answer) == 1
    assert last_answered(of("", ""), answer) == 0
    assert is_cut(Candidate((), "", 0.0, False)) and not is_cut(Candidate((), "", 0.0, True))
