"""Episodes of several turns in rollouts.jsonl and on a terminal."""

from __future__ import annotations

import json

from posttrain.report.records import Call, Said
from posttrain.report.turns import has_turns, parts_of, said, turn_records, turns_as_json
from posttrain.types import Sample, ToolCall, Trace, Turn


def sample(*ids: int) -> Sample:
    return Sample(list(ids), [0.0] * len(ids), [0.0] * len(ids), "stop")


def trace() -> Trace:
    """A call, its result, and an answer whose context drops the first token of the first turn."""
    call = ToolCall("add", {"a": 1, "b": "é"}, "3")
    failed = ToolCall("add", {}, error="the argument 'a' is missing")
    first = Turn((1, 2), sample(3, 4), "call", [{"role": "user", "content": "1+2"}], [call, failed])
    middle = Turn((1, 2, 3, 4, 5), sample(6), "hm", [{"role": "tool", "content": "3"}], reward=0.5)
    last = Turn((1, 2, 4, 5, 6), sample(7), "3", is_trained=False)
    return Trace([first, middle, last], stop_reason="max_turns")


def test_what_is_more_than_a_completion() -> None:
    assert has_turns(trace())
    assert not has_turns(Trace.of_sample((1,), sample(2), "a"))
    assert not has_turns(Trace.of_text("a")) and not has_turns(Trace([], error="reset: no"))
    for change in ({"reward": 0.0}, {"is_trained": False}, {"messages": [{"role": "user"}]}):
        assert has_turns(Trace([Turn((1,), sample(2), "", **change)]))  # type: ignore[arg-type]


def test_turns_as_json_and_back() -> None:
    values = json.loads(json.dumps(turns_as_json(trace())))
    assert [v["branch"] for v in values] == [False, False, True]
    assert [v["trained"] for v in values] == [True, True, False]
    assert [v["num_tokens"] for v in values] == [2, 1, 1]
    first, middle, last = turn_records(values)
    assert first.messages == (Said("user", "1+2"),)
    assert first.calls == (
        Call("add", '{"a": 1, "b": "é"}', "3"),
        Call("add", "{}", None, "the argument 'a' is missing"),
    )
    assert (middle.reward, last.reward) == (0.5, None)
    assert last.starts_branch and not last.is_trained


def test_nothing_of_a_failed_trace_is_trained() -> None:
    failed = trace()
    failed.error = "board: KeyError"
    assert not any(v["trained"] for v in turns_as_json(failed))
    assert not any(is_trained for _, _, is_trained in parts_of(failed))


def test_parts_are_what_was_said_behind_the_prompt() -> None:
    assert parts_of(trace()) == [
        ("assistant", "call", True),
        ("tool", "3", False),
        ("assistant", "hm", True),
        ("assistant", "3", False),
    ]


def test_contents_of_messages() -> None:
    assert said({"content": None}) == "" and said({"content": "a"}) == "a"
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, "b"]
    assert said({"content": parts}) == "a\n[image]\nb"
