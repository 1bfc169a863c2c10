"""Groups of traces as plain data, for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from posttrain.types import Example, Sample, ToolCall, Trace, TraceGroup, Turn, VersionSpan


def group_record(group: TraceGroup) -> dict[str, Any]:
    """A group without its example, as JSON has it: whole, with ids, log-probs and rewards."""
    return {
        "prompt_ids": list(group.prompt_ids),
        "traces": [asdict(trace) for trace in group.traces],
        "greedy_reward": group.greedy_reward,
        "num_given": group.num_given,
    }


def group_of(record: Mapping[str, Any], example: Example) -> TraceGroup:
    """The group of a record."""
    traces = [_trace(values) for values in record["traces"]]
    prompt_ids = tuple(record["prompt_ids"])
    return TraceGroup(example, prompt_ids, traces, record["greedy_reward"], record["num_given"])


def _trace(values: Mapping[str, Any]) -> Trace:
    return Trace(**{**values, "turns": [_turn(turn) for turn in values["turns"]]})


def _turn(values: Mapping[str, Any]) -> Turn:
    sample = values["sample"]
    sample = {
        **sample,
        "top_logprobs": [tuple((int(i), x) for i, x in place) for place in sample["top_logprobs"]],
        "version_spans": tuple(VersionSpan(*span) for span in sample["version_spans"]),
    }
    calls = [ToolCall(**call) for call in values["tool_calls"]]
    own = {"context_ids": tuple(values["context_ids"]), "sample": Sample(**sample)}
    given = tuple(map(bool, values["given"]))
    return Turn(**{**values, **own, "tool_calls": calls, "given": given})
