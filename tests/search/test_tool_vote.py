"""Votes over tool calls."""

from __future__ import annotations

import json

from posttrain.episodes.tool_calls import parser_for
from posttrain.search.base import Candidate
from posttrain.search.tool_vote import canonical_calls, tool_vote


def call(name: str, **arguments) -> str:
    text = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{text}\n</tool_call>"


def fixed(*texts: str):
    return lambda context, n: [Candidate((1, 2), t, -float(i), True) for i, t in enumerate(texts)]


def test_equal_calls_vote_together(scripted, search) -> None:
    texts = (
        call("find", q="x", k=1),
        "Let me see. " + call("find", k=1.0, q="x"),
        call("find", q="y"),
        "<tool_call>\n{broken\n</tool_call>",
    )
    s = search(tool_vote((1,), scripted(fixed(*texts)), lambda t: None, num_samples=4))
    assert json.loads(s.answer) == [{"name": "find", "arguments": {"k": 1, "q": "x"}}]
    assert s.index == 0 and sorted(s.votes.values()) == [1.0, 2.0]
    assert s.notes == {"unreadable": 1.0}


def test_answers_vote_beside_calls(scripted, search) -> None:
    texts = ("7", call("find", q="x"), "so 7")
    s = search(tool_vote((1,), scripted(fixed(*texts)), lambda t: t[-1], num_samples=3))
    assert s.answer == "7" and s.votes["7"] == 2.0


def test_names_first(scripted, search) -> None:
    """Three calls of f with different arguments outvote two equal calls of g by name."""
    texts = (call("g", a=1), call("g", a=1), *(call("f", a=i) for i in range(3)))
    by_call = search(tool_vote((1,), scripted(fixed(*texts)), str, num_samples=5))
    assert json.loads(by_call.answer)[0]["name"] == "g"
    by_name = search(tool_vote((1,), scripted(fixed(*texts)), str, num_samples=5, by="name"))
    assert json.loads(by_name.answer) == [{"name": "f", "arguments": {"a": 0}}]
    assert len(by_name.votes) == 3


def test_one_sample_and_nothing_readable(scripted, search) -> None:
    ask = scripted(fixed("plain"))
    assert search(tool_vote((1,), ask, str, num_samples=1)).text == "plain"
    broken = "<tool_call>\n{\n</tool_call>"
    s = search(tool_vote((1,), scripted(fixed(broken)), str, num_samples=1, by="name"))
    assert s.answer is None and s.index == 0 and s.votes == {}


def test_the_key_keeps_the_order_of_calls() -> None:
    parse = parser_for(None, "hermes")
    one = canonical_calls(parse(call("f", a=[1.0, {"b": 2}]) + call("g")))
    assert one is not None and [c["name"] for c in json.loads(one)] == ["f", "g"]
    assert one != canonical_calls(parse(call("g") + call("f", a=[1, {"b": 2}])))
    assert canonical_calls(parse("nothing")) is None
