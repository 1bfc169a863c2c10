"""A row in one shape, and how texts, messages and tools are read from columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from posttrain.errors import DataError
from posttrain.types import Message, Text

Row = Mapping[str, Any]


@dataclass(slots=True)
class Item:
    """A row in one shape. Which fields are set depends on the format.

    text: plain text. prompt, completion: text or messages. chosen, rejected: completions. label: desirable or not.
    prefix: steps that chosen and rejected go on from. reference: the third text of a triple. completions, rewards: of a
    listwise row, higher is better. steps, step_labels: of a stepwise row, labels from 0 to 1. reward: of a rewarded row, None
    where it has none. tools: JSON schemas. answer: the gold answer. margin: of a preference. probability: that the chosen
    completion is the better one.
    columns: everything else, by name. row: name for messages.
    """

    row: str
    text: str | None = None
    prompt: Text | None = None
    completion: Text | None = None
    chosen: Text | None = None
    rejected: Text | None = None
    label: bool | None = None
    reward: float | None = None
    prefix: str | None = None
    reference: Text | None = None
    steps: list[str] = field(default_factory=list)
    step_labels: list[float] = field(default_factory=list)
    tools: list[Any] | None = None
    answer: Any = None
    margin: float | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    completions: list[Text] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    probability: float | None = None


_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function": "tool",
    "system": "system",
    "developer": "system",
}


def text_of(row: Row, column: str, name: str, *, empty: bool = False) -> str:
    """The text of a column, which must be there and (unless empty) say something."""
    value = row.get(column)
    if not isinstance(value, str):
        kind = "missing" if value is None else f"{type(value).__name__}, not text"
        raise DataError(f"row {name}: column {column!r} is {kind}")
    if not value.strip() and not empty:
        raise DataError(f"row {name}: column {column!r} is empty")
    return value


def text_or_messages(row: Row, column: str, name: str) -> Text:
    """A column that holds text or chat messages."""
    value = row.get(column)
    if isinstance(value, str) or value is None:
        return text_of(row, column, name)
    return messages_of(value, column, name)


def messages_of(value: Any, column: str, name: str) -> list[Message]:
    """Messages with roles and contents as chat templates know them, from those of any of the known formats."""
    if not isinstance(value, list) or not value:
        raise DataError(f"row {name}: column {column!r} must be text or a list of messages, not {value!r:.80}")
    out: list[Message] = []
    for number, message in enumerate(value):
        if not isinstance(message, Mapping):
            raise DataError(f"row {name}: {column}[{number}] is {message!r:.60}, not a message {{role, content}}")
        raw_role = message.get("role", message.get("from"))
        role = _ROLES.get(str(raw_role))
        if role is None:
            raise DataError(f"row {name}: {column}[{number}] has the role {raw_role!r}; known are {', '.join(_ROLES)}")
        content = message.get("content", message.get("value"))
        # Message lists that went through Arrow carry every key of every message, as None.
        kept = {k: v for k, v in message.items() if k not in ("role", "from", "content", "value") and v is not None}
        made: Message = {"role": role, "content": "" if content is None else content, **kept}
        if raw_role == "function_call":
            made = {"role": role, "content": "", "tool_calls": _calls(content, name)}
        if content is None and "tool_calls" not in made:
            raise DataError(f"row {name}: {column}[{number}] has no content")
        out.append(made)
    return out


def _calls(content: Any, name: str) -> list[dict[str, Any]]:
    try:
        calls = json.loads(content) if isinstance(content, str) else content
    except json.JSONDecodeError as error:
        raise DataError(f"row {name}: a function_call is not valid JSON: {content!r:.80}") from error
    calls = calls if isinstance(calls, list) else [calls]
    return [{"type": "function", "function": {"name": c["name"], "arguments": c.get("arguments", {})}} for c in calls]


def tools_of(row: Row, name: str) -> list[Any] | None:
    """JSON schemas of a row's tools, None where it has none."""
    tools = row.get("tools")
    if isinstance(tools, str):
        if not tools.strip():
            return None
        try:
            tools = json.loads(tools)
        except json.JSONDecodeError as error:
            raise DataError(f"row {name}: column 'tools' is not valid JSON") from error
    return tools or None


def rest_of(row: Row, *used: str) -> dict[str, Any]:
    """The columns that a format does not use."""
    return {k: v for k, v in row.items() if k not in used}
