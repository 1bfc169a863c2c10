"""A conversation as a training sequence: which characters, and so which tokens, each turn wrote.

Which tokens are trained is decided by position in the rendered conversation, never by token id. The
conversation is rendered up to each trained turn and through it. The renderings are checked to be
prefixes of one another, and the characters in between are the turn. So any Jinja template works,
whatever its end-of-turn or padding tokens are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.data.forest import TokenSequence
from posttrain.data.templates import TrainOn, render
from posttrain.errors import DataError, TemplateError
from posttrain.types import Message


def encode_messages(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    tools: list[Any] | None = None,
    train_on: TrainOn = "all_assistant",
    row: str = "",
) -> TokenSequence:
    """A conversation as ids with a mask of the trained tokens.

    A message may have `train: false`, which leaves it out, or `weight: 0.5`, with which its tokens
    count less (stream "weights").

    Args:
        train_on: "all_assistant", "last" (the last assistant turn), or "everything".
    Raises:
        TemplateError: the template rewrites earlier turns, so that a turn has no place of its own;
            shows where.
        DataError: a weight is negative or no number.
    """
    plain = [{k: v for k, v in m.items() if k not in ("train", "weight")} for m in messages]
    full = render(tokenizer, plain, tools=tools)
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    turns = {"everything": [], "last": turns[-1:]}.get(train_on, turns)
    turns = [
        i for i in turns if messages[i].get("train") is not False and messages[i].get("weight") != 0
    ]
    spans = [_turn_span(tokenizer, plain, i, full, tools, row) for i in turns]
    ids, offsets = _with_offsets(tokenizer, full, [first for first, _ in spans])
    if not ids:
        raise TemplateError(
            f"row {row}: the chat template writes nothing for the conversation; set "
            "model.chat_template to another"
        )
    mask = np.full(len(ids), train_on == "everything")
    weights = np.ones(len(ids), dtype=np.float32)
    for i, (first, stop) in zip(turns, spans, strict=True):
        if not isinstance(weight := messages[i].get("weight", 1.0), int | float) or weight < 0:
            raise DataError(
                f"row {row}: message {i} has the weight {weight!r}; it says how much its tokens "
                "count, 0 or above"
            )
        inside = (
            (offsets[:, 0] >= first) & (offsets[:, 1] <= stop) & (offsets[:, 1] > offsets[:, 0])
        )
        mask |= inside
        weights[inside] = float(weight)
    mask[0] = False
    weighted = any("weight" in m for m in messages)
    return TokenSequence(np.array(ids), mask, {"weights": weights} if weighted else {}, row=row)


def _turn_span(
    tokenizer: Any, messages: list[Message], i: int, full: str, tools: list[Any] | None, row: str
) -> tuple[int, int]:
    """Characters [first, stop) of the rendered conversation that are turn i and its terminator."""
    before = (
        render(tokenizer, messages[:i], tools=tools, generation=True)
        if i
        else _opening(tokenizer, messages, tools)
    )
    through = render(tokenizer, messages[: i + 1], tools=tools)
    _check_prefix(
        before,
        through,
        f"the conversation before turn {i}",
        f"the conversation through turn {i}",
        row,
    )
    _check_prefix(
        through, full, f"the conversation through turn {i}", "the whole conversation", row
    )
    written = through[len(before) :]
    _check_calls(messages[i], written, f"row {row}: turn {i}")
    # White space behind the terminator is not trained: the model has stopped before it.
    stripped = written.rstrip()
    turn = stripped if _ends_in_terminator(tokenizer, stripped) else written
    return len(before), len(before) + len(turn)


def _opening(tokenizer: Any, messages: list[Message], tools: list[Any] | None) -> str:
    """The text before an assistant turn that opens the conversation."""
    through = render(tokenizer, messages[:1], tools=tools)
    content = messages[0].get("content")
    place = through.find(content) if isinstance(content, str) and content else 0
    return through[: max(place, 0)]


def _ends_in_terminator(tokenizer: Any, text: str) -> bool:
    return any(text.endswith(str(token)) for token in tokenizer.all_special_tokens)


def _check_calls(message: Message, written: str, where: str) -> None:
    names = [
        str(call.get("function", call).get("name")) for call in message.get("tool_calls") or []
    ]
    lost = [name for name in names if name not in written]
    if lost:
        raise TemplateError(
            f"{where} calls the tool {lost[0]!r}, but the chat template writes the turn without "
            f"it: {written!r:.80}. "
            "Set model.chat_template to a template that writes tool calls"
        )


def _check_prefix(shorter: str, longer: str, what: str, of: str, row: str) -> None:
    if longer.startswith(shorter):
        return
    place = next(
        (k for k, (a, b) in enumerate(zip(shorter, longer, strict=False)) if a != b),
        min(len(shorter), len(longer)),
    )
    window = slice(max(place - 30, 0), place + 40)
    raise TemplateError(
        f"row {row}: this chat template rewrites earlier turns, so a turn has no fixed position. "
        f"{what} differs from {of} at character {place}:\n  {shorter[window]!r}\n  "
        f"{longer[window]!r}\nTrain on the last turn alone (data.train_on: last), or set "
        "model.chat_template to a template that only appends"
    )


def _with_offsets(
    tokenizer: Any, text: str, borders: Sequence[int]
) -> tuple[list[int], np.ndarray]:
    """Ids, and int64 [T, 2] the characters [first, stop) of each.

    Where a token would cross a border (the start of a trained turn), the text is tokenised in two
    parts, as it is when the model continues the prompt.
    """
    if not tokenizer.is_fast:
        raise TemplateError(
            "chat messages need a fast tokenizer, which gives the position of each token in the "
            "text; set model.tokenizer to a folder with tokenizer.json"
        )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = (
        list(encoded["input_ids"]),
        np.array(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2),
    )
    crossed = next((b for b in borders if ((offsets[:, 0] < b) & (b < offsets[:, 1])).any()), None)
    if crossed is None:
        return ids, offsets
    before, before_offsets = _with_offsets(
        tokenizer, text[:crossed], [b for b in borders if b < crossed]
    )
    after, after_offsets = _with_offsets(
        tokenizer, text[crossed:], [b - crossed for b in borders if b > crossed]
    )
    return before + after, np.concatenate([before_offsets, after_offsets + crossed])
