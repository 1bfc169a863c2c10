"""The text of a row, whatever its format: its prompt, its completion, and all of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.data.dialogues import with_shared_prompt
from posttrain.data.formats import RowFormat, detect_format, normalise
from posttrain.data.item import Item, Row
from posttrain.errors import DataError
from posttrain.types import Text

_DETECTED = 50  # rows by which the format is detected


@dataclass(frozen=True, slots=True)
class RowText:
    """The text of a row.

    prompt, completion: as text; the completion of a conversation is its assistant turns, of a plain
    text the text, of a preference what was chosen. text: all of it, as what copies are told by.
    roles: of its messages, in order; none of plain text. item: the row in one shape, None where no
    format has its columns or it cannot be read.
    """

    prompt: str
    completion: str
    text: str
    roles: tuple[str, ...] = ()
    item: Item | None = None


class RowTexts:
    """Reads rows one after the other, each with its text.

    Args:
        columns: columns whose text counts; None takes what the format says, or all text where no
            format fits.
    """

    def __init__(self, columns: Sequence[str] | None = None) -> None:
        self.columns = columns
        self.form: RowFormat | None = None

    def __call__(self, rows: Iterable[Row]) -> Iterator[tuple[Row, RowText]]:
        """Each row with its text. The format is that of the first rows."""
        rows = iter(rows)
        first = list(itertools.islice(rows, _DETECTED))
        try:
            self.form = detect_format(first)
        except DataError:
            self.form = None
        for number, row in enumerate(itertools.chain(first, rows)):
            yield row, self._of(row, number)

    def _of(self, row: Row, number: int) -> RowText:
        if self.columns is not None:
            text = text_of({name: row.get(name) for name in self.columns})
            return RowText("", text, text)
        item = None
        if self.form is not None:
            try:
                item = normalise(row, self.form, str(row.get("id", number)))
                if item.chosen is not None and item.prompt is None:
                    item = with_shared_prompt(item)
            except DataError:
                item = None
        return of_item(item) if item is not None else _unread(row)


def _unread(row: Row) -> RowText:
    text = text_of(row)
    return RowText("", text, text)


def of_item(item: Item) -> RowText:
    """The text of a row in one shape."""
    if item.text is not None:
        return RowText("", item.text, item.text, (), item)
    prompt, completion, others = item.prompt, item.completion, []
    if item.chosen is not None:
        completion, others = item.chosen, [item.rejected or ""]
    elif item.completions:
        completion, others = item.completions[0], list(item.completions[1:])
    elif item.steps:
        completion = "\n".join(item.steps)
    elif completion is None:
        others = [str(item.answer)] if item.answer is not None else []
    messages = [*_messages(prompt), *_messages(completion)]
    roles = tuple(m["role"] for m in messages)
    before, after = _plain(prompt), _plain(completion)
    if isinstance(completion, list):  # a conversation: what is trained are its assistant turns
        context = "\n".join(_content(m) for m in messages if m["role"] != "assistant")
        after = "\n".join(_content(m) for m in completion if m["role"] == "assistant")
        before = context if prompt is None else _plain(prompt)
    # In the order of the row, without the names of roles: the same dialogue in another format is a
    # copy too.
    parts = [_content(m) for m in messages] if messages else [p for p in (before, after) if p]
    ordered = "\n".join(parts)
    text = "\n".join([ordered, *(_plain(other) for other in others)])
    return RowText(before, after, text.strip("\n"), roles, item)


def _messages(text: Text | None) -> list[Any]:
    return list(text) if isinstance(text, list) else []


def _plain(text: Text | None) -> str:
    if text is None or isinstance(text, str):
        return text or ""
    return "\n".join(_content(message) for message in text)


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else text_of(content)


def text_of(row: Any) -> str:
    """All text of a row, its lists and messages included, a value a line."""
    return "\n".join(strings_of(row))


def strings_of(value: Any) -> Iterator[str]:
    """The texts within a value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from strings_of(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from strings_of(part)
