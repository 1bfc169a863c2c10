"""Tool calls in an answer's text, and what of the text can be sent before the calls are known."""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Collection, Sequence
from typing import Any

from posttrain.episodes.tool_calls import form_of, parser_for, template_text
from posttrain.serve.sample_text import overlap, special_ids
from posttrain.types import ToolCall

_MARKS = {
    "hermes": ("<tool_call>",),
    "qwen_coder": ("<tool_call>",),
    "llama": ("<|python_tag|>",),
    "mistral": ("[TOOL_CALLS]",),
}
"""Form of tool calls -> what begins the first call of a text."""

_INSIDE = ("</tool_call>", "[ARGS]", "[CALL_ID]", "<think>", "</think>")
"""Further marks of calls and thoughts, which some tokenizers have as special tokens."""

_ID_CHARACTERS = string.ascii_letters + string.digits
_THOUGHT, _END_OF_THOUGHT = "<think>", "</think>"


class CallReader:
    """How a tokenizer's model writes tool calls.

    Args:
        tools: schemas of the tools that the request offers.
        form: of calls, see `posttrain.episodes.tool_calls.parser_for`.
        stop_ids: tokens that end a sample.
    Attributes:
        parse: takes a text apart.
        marks: of which one begins the first call; empty where only the whole text says.
        begins_with_brace: whether a text that begins with "{" is a call.
        kept_ids: special tokens that are part of the text.
    """

    def __init__(
        self,
        tokenizer: Any,
        tools: Sequence[dict[str, Any]],
        form: str = "auto",
        stop_ids: Collection[int] = (),
    ) -> None:
        self.parse = parser_for(tokenizer, form, tools)
        if form == "auto" and getattr(tokenizer, "response_template", None) is None:
            form = form_of(template_text(tokenizer))
        self.marks = _MARKS.get(form, ())
        self.begins_with_brace = form == "llama"
        special = special_ids(tokenizer)
        if self.marks:
            marks = {*self.marks, *_INSIDE}
            special = {i: text for i, text in special.items() if text in marks}
        self.kept_ids = frozenset(special).difference(stop_ids)


class ToolText:
    """The text of one sample, in which calls may stand.

    The content is the text before the first call. Where a call cannot be read, or there is none,
    it is the whole text.

    Args:
        prefix: the end of the prompt, which may open a thought.
    """

    def __init__(self, reader: CallReader, prefix: str) -> None:
        self._reader, self._prefix = reader, prefix
        self._text = ""
        self._num_sent = 0

    def add(self, text: str) -> str:
        """The content that is sure with this text."""
        self._text += text
        return self._send(self._text[: self._safe_length()])

    def end(self) -> tuple[str, list[ToolCall]]:
        """The rest of the content, and the calls."""
        completion = self._reader.parse(self._text, prefix=self._prefix)
        if completion.errors or not completion.calls:
            return self._send(self._text), []
        if not self._reader.marks:
            return self._send(completion.content), completion.calls
        return self._send(self._text[: self._first_call()].rstrip()), completion.calls

    def _send(self, content: str) -> str:
        new = content[self._num_sent :]
        self._num_sent = max(self._num_sent, len(content))
        return new

    def _safe_length(self) -> int:
        """Length of the text that no later text can make part of a call."""
        marks, place = self._reader.marks, self._first_call()
        if not marks:
            return 0
        if place == len(self._text):
            place -= max(overlap(self._text, mark) for mark in marks)
        return len(self._text[:place].rstrip())  # spaces before a call are not content

    def _first_call(self) -> int:
        """Where the first call begins; a thought holds none."""
        text = self._text
        opened = self._prefix.rstrip().endswith(_THOUGHT) or text.lstrip().startswith(_THOUGHT)
        before, end, _ = text.partition(_END_OF_THOUGHT)
        if opened and not end:
            return len(text)
        start = len(before) + len(end) if end else 0
        if self._reader.begins_with_brace and text[start:].lstrip().startswith("{"):
            return start
        places = [text.find(mark, start) for mark in self._reader.marks]
        return min((place for place in places if place >= 0), default=len(text))


def call_fields(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Calls in OpenAI's shape; arguments are JSON as text."""
    return [
        {
            "id": _call_id(),
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": json.dumps(call.arguments, ensure_ascii=False),
            },
        }
        for call in calls
    ]


def _call_id() -> str:
    """A fresh id: nine letters and digits, as Mistral's templates ask."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(9))
