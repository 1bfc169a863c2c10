"""Traces: of a sample, of a text, and of several turns."""

from __future__ import annotations

import pytest

from posttrain.errors import DataError
from posttrain.types import FinishReason, Sample, ToolCall, Trace, Turn


def sample(*ids: int, finish_reason: FinishReason = "stop") -> Sample:
    return Sample(list(ids), [0.0] * len(ids), [0.0] * len(ids), finish_reason)


def test_a_sample_is_a_trace_of_one_turn() -> None:
    trace = Trace.of_sample((1, 2), sample(3, 4, finish_reason="length"), "34")
    (turn,) = trace.turns
    assert turn.context_ids == (1, 2) and turn.ids == (1, 2, 3, 4)
    assert trace.sample.ids == [3, 4] and trace.text == "34" and trace.has_tokens
    assert trace.finish_reason == "length" and trace.stop_reason == "max_tokens"


def test_a_text_has_no_tokens() -> None:
    trace = Trace.of_text("a", "length")
    assert trace.text == "a" and not trace.has_tokens and trace.finish_reason == "length"
    assert trace.num_sampled == 0
    with pytest.raises(DataError):
        _ = trace.sample


def test_the_last_turn_is_the_completion() -> None:
    first = Turn((1,), sample(2, 3), "call", tool_calls=[ToolCall("add", {"a": 1}, "2")])
    last = Turn((1, 2, 3, 4), sample(5), "done", [{"role": "tool", "content": "2"}], reward=1.0)
    trace = Trace([first, last], stop_reason="tool_stopped")
    assert trace.text == "done" and trace.sample.ids == [5] and trace.finish_reason == "stop"
    assert trace.num_sampled == 3


def test_an_episode_that_failed_before_its_first_turn() -> None:
    trace = Trace([], error="reset: no board")
    assert trace.text == "" and not trace.has_tokens and trace.reward is None
