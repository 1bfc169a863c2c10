"""The vote in which the model chooses among its answers."""

from __future__ import annotations

import pytest

from posttrain.search.base import Candidate
from posttrain.search.universal import choice_text, chosen_number, universal_consistency

TEXTS = ["a poem", "a song", "a poem again", ""]


def writing(choice: str, texts: list[str] = TEXTS):
    """Writes the texts behind the prompt (1,), and the choice behind all others."""

    def write(context, n):
        if context == (1,):
            return [Candidate((2, 3) if t else (), t, -1.0, True) for t in texts[:n]]
        return [Candidate((4,), choice, 0.0, True)]

    return write


def render(text, system=None):
    return tuple(range(10, 10 + len(text)))


def run(search, ask, problem="write", n=4):
    return search(universal_consistency((1,), ask, str, problem, render, num_samples=n))


def test_the_model_chooses(scripted, search) -> None:
    ask = scripted(writing("The most consistent response is Response 3"))
    s = run(search, ask)
    assert (s.text, s.index, s.notes) == ("a poem again", 2, {"fell_back": 0.0})
    assert len(ask.calls) == 2 and ask.calls[1][3] == 64 and ask.budget.num_tokens == 7
    # The prompt of the choice holds the texts that were written, and the problem.
    assert len(ask.calls[1][0]) == len(choice_text("write", TEXTS[:3]))


def test_it_falls_back_on_a_vote(scripted, search) -> None:
    for choice in ("I cannot say", "Response 9", ""):
        s = run(search, scripted(writing(choice, ["x", "y", "y"])), n=3)
        assert (s.text, s.notes) == ("y", {"fell_back": 1.0})


def test_no_choice_among_one(scripted, search) -> None:
    ask = scripted(writing("Response 1"))
    s = run(search, ask, n=1)
    assert s.text == "a poem" and len(ask.calls) == 1
    ask = scripted(writing("Response 1", ["x", "x"]))
    assert run(search, ask, n=2).text == "x" and len(ask.calls) == 1
    ask = scripted(writing("Response 1"), budget=4)
    assert run(search, ask).text in TEXTS and len(ask.calls) == 1


def test_messages_get_a_message(scripted, search) -> None:
    given = []

    def remember(text, system=None):
        given.append(text)
        return (7,)

    problem = [{"role": "user", "content": "write"}]
    ask = scripted(writing("Response 2"))
    s = search(universal_consistency((1,), ask, str, problem, remember, num_samples=4))
    assert s.text == "a song" and given[0][0]["role"] == "user"
    assert "user: write" in given[0][0]["content"]
    spoken = [{"role": "system", "content": "be brief"}, *problem]
    search(universal_consistency((1,), ask, str, spoken, remember, num_samples=4))
    assert [m["role"] for m in given[1]] == ["system", "user"]
    assert given[1][0] == spoken[0]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Response 2 is", 2),
        ("response #4", 4),
        ("3", 3),
        ("Responses 1 and Response 12, Response 2", 2),
        ("Response 99999999999", None),
        ("none", None),
        ("Response 0", None),
    ],
)
def test_the_number_that_is_named(text: str, number: int | None) -> None:
    assert chosen_number(text, 4) == number
