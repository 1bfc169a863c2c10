"""Episodes of several turns: as a line of rollouts.jsonl holds them, and as text for a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.report.records import Call, Said, TurnRecord
from posttrain.report.series import number
from posttrain.types import Message, Trace, Turn

Part = tuple[str, str, bool]
"""Who said it, the text, and whether it is trained on."""


def has_turns(trace: Trace) -> bool:
    """Whether a trace is more than the completion of its prompt."""
    return len(trace.turns) > 1 or any(
        turn.messages or turn.tool_calls or turn.reward is not None or not turn.is_trained
        for turn in trace.turns
    )


def turns_as_json(trace: Trace) -> list[dict[str, Any]]:
    """The turns of a trace.

    messages: what was said before the completion, since the turn before. trained: whether losses
    count the completion. branch: the context does not begin with that of the turn before, as where
    a template drops old thoughts.
    """
    before: tuple[int, ...] = ()
    values = []
    for turn in trace.turns:
        branch = turn.context_ids[: len(before)] != before
        values.append(_turn_as_json(turn, turn.is_trained and not trace.has_failed, branch))
        before = turn.ids
    return values


def _turn_as_json(turn: Turn, trained: bool, branch: bool) -> dict[str, Any]:
    return {
        "messages": [{"role": str(m.get("role", "")), "content": said(m)} for m in turn.messages],
        "text": turn.text,
        "tool_calls": [
            {
                "name": call.name,
                "arguments": json.dumps(call.arguments, ensure_ascii=False, default=str),
                "result": call.result,
                "error": call.error,
            }
            for call in turn.tool_calls
        ],
        "reward": number(turn.reward),
        "num_tokens": len(turn.sample.ids),
        "trained": trained,
        "branch": branch,
    }


def said(message: Message) -> str:
    """The content of a message as text; of parts their texts."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(
            str(part.get("text", f"[{part.get('type', 'part')}]"))
            if isinstance(part, Mapping)
            else str(part)
            for part in content
        )
    return "" if content is None else str(content)


def turn_records(values: Sequence[Mapping[str, Any]]) -> tuple[TurnRecord, ...]:
    """The turns of a line of rollouts.jsonl as records."""
    return tuple(
        TurnRecord(
            tuple(Said(str(m["role"]), str(m["content"])) for m in turn.get("messages", ())),
            str(turn["text"]),
            tuple(
                Call(str(c["name"]), str(c["arguments"]), c.get("result"), c.get("error"))
                for c in turn.get("tool_calls", ())
            ),
            number(turn.get("reward")),
            turn.get("num_tokens"),
            bool(turn.get("trained", True)),
            bool(turn.get("branch", False)),
        )
        for turn in values
    )


def parts_of(trace: Trace) -> list[Part]:
    """What was said in a trace behind its prompt, in order."""
    parts: list[Part] = []
    for place, turn in enumerate(trace.turns):
        if place:
            parts += [(str(m.get("role", "")), said(m), False) for m in turn.messages]
        parts.append(("assistant", turn.text, turn.is_trained and not trace.has_failed))
    return parts
