"""A row in one shape, and how texts, messages and tools are read from columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from posttrain.data.text_files import parsed_json, refuse_half_characters
from posttrain.errors import DataError, shown
from posttrain.types import Message, Text

Row = Mapping[str, Any]


@dataclass(slots=True)
class Item:
    """A row in one shape. Which fields are set depends on the format.

    Attributes:
        row: name of the row, for messages.
        text: plain text.
        prompt, completion: text or messages.
        chosen, rejected: completions of a preference.
        label: whether the completion is desirable.
        reward: of a rewarded row; None if it has none.
        prefix: steps that chosen and rejected continue.
        reference: the third text of a triple.
        steps, step_labels: of a stepwise row; labels are from 0 to 1.
        tools: JSON schemas.
        answer: the gold answer.
        margin: of a preference.
        columns: every other column, by name.
        completions, rewards: of a listwise row; higher is better.
        probability: that chosen is better than rejected.
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
    """The text of a column.

    Raises:
        DataError: the column is missing, is no text, or is blank (unless `empty`).
    """
    value = row.get(column)
    if not isinstance(value, str):
        kind = "missing" if value is None else f"{type(value).__name__}, not text"
        raise DataError(f"row {name}: column {column!r} is {kind}")
    if not value.strip() and not empty:
        raise DataError(f"row {name}: column {column!r} is empty")
    refuse_half_characters(value, f"row {name}: column {column!r}")
    return value


def text_or_messages(row: Row, column: str, name: str) -> Text:
    """A column that holds text or chat messages."""
    value = row.get(column)
    if isinstance(value, str) or value is None:
        return text_of(row, column, name)
    return messages_of(value, column, name)


def messages_of(value: Any, column: str, name: str) -> list[Message]:
    """Messages with the keys role and content, as chat templates read them.

    Args:
        value: messages {role, content} or {from, value}, with the roles of any format.
    Raises:
        DataError: the value is no list of messages; names the message.
    """
    if not isinstance(value, list) or not value:
        raise DataError(
            f"row {name}: column {column!r} must be text or a list of messages, not {value!r:.80}"
        )
    out: list[Message] = []
    for number, message in enumerate(value):
        if not isinstance(message, Mapping):
            raise DataError(
                f"row {name}: {column}[{number}] is {message!r:.60}, not a message {{role, "
                f"content}}"
            )
        raw_role = message.get("role", message.get("from"))
        role = _ROLES.get(str(raw_role))
        if role is None:
            raise DataError(
                f"row {name}: {column}[{number}] has the role {raw_role!r}; known are "
                f"{', '.join(_ROLES)}"
            )
        content = _joined(message.get("content", message.get("value")))
        # Message lists that went through Arrow carry every key of every message, as None.
        others = {
            k: v
            for k, v in message.items()
            if k not in ("role", "from", "content", "value", "loss_weight") and v is not None
        }
        if message.get("loss_weight") is not None:
            others.setdefault("weight", message["loss_weight"])
        shaped: Message = {"role": role, "content": "" if content is None else content, **others}
        if raw_role == "function_call":
            shaped = {"role": role, "content": "", "tool_calls": _calls(content, name)}
        if content is None and "tool_calls" not in shaped:
            raise DataError(f"row {name}: {column}[{number}] has no content")
        _check_message(shaped, f"row {name}: {column}[{number}]")
        out.append(shaped)
    return out


def _joined(content: Any) -> Any:
    """Parts {type: text, value: ...} as one text; any other content as it is, since templates read
    parts {type: text, text: ...} themselves.
    """
    if not isinstance(content, list) or not content:
        return content
    texts = [p.get("value") for p in content if isinstance(p, Mapping) and p.get("type") == "text"]
    plain = len(texts) == len(content) and all(isinstance(text, str) for text in texts)
    return "".join(texts) if plain else content  # type: ignore[arg-type]


def _calls(content: Any, name: str) -> list[dict[str, Any]]:
    where = f"row {name}: a function_call"
    calls = parsed_json(content, where) if isinstance(content, str) else content
    calls = calls if isinstance(calls, list) else [calls]
    _check_calls(calls, where)
    return [
        {"type": "function", "function": {"name": c["name"], "arguments": c.get("arguments", {})}}
        for c in calls
    ]


_MAX_WEIGHT = 1e30  # far inside float32, in which weights are kept


def _check_message(message: Message, where: str) -> None:
    """Refuse what no chat template can write.

    Raises:
        DataError: content that is no text, a malformed tool call, a weight that is no number.
    """
    content = message["content"]
    if not isinstance(content, str | list):
        raise DataError(
            f"{where} has the content {shown(content)}; it must be text or a list of parts"
        )
    if isinstance(content, str):
        refuse_half_characters(content, where)
    if "tool_calls" in message:
        calls = message["tool_calls"]
        if not isinstance(calls, list):
            raise DataError(
                f"{where} has tool_calls {shown(calls)}; they are a list of {{name, arguments}}"
            )
        _check_calls(
            [c.get("function", c) if isinstance(c, Mapping) else c for c in calls],
            f"{where}: a tool call",
        )
    weight = message.get("weight", 1.0)
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not 0 <= weight < _MAX_WEIGHT:
        raise DataError(
            f"{where} has the weight {shown(weight)}; it says how much its tokens count, 0 or above"
        )


def _check_calls(calls: list[Any], where: str) -> None:
    for call in calls:
        if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
            raise DataError(f"{where} is {shown(call)}; it must be {{name: text, arguments: ...}}")


def tools_of(row: Row, name: str) -> list[Any] | None:
    """JSON schemas of a row's tools, None where it has none."""
    tools = row.get("tools")
    if isinstance(tools, str):
        if not tools.strip():
            return None
        tools = parsed_json(tools, f"row {name}: column 'tools'")
    if tools and not (
        isinstance(tools, list) and all(isinstance(tool, Mapping | str) for tool in tools)
    ):
        raise DataError(
            f"row {name}: column 'tools' is {shown(tools)}; it must be a list of JSON schemas"
        )
    return tools or None


def rest_of(row: Row, *used: str) -> dict[str, Any]:
    """The columns that a format does not use."""
    return {k: v for k, v in row.items() if k not in used}
