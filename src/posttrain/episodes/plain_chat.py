"""A conversation as plain text, for models that have no chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from posttrain.data.templates import encode_prompt, text_ids
from posttrain.episodes.tool_calls import Completion, parser_for
from posttrain.errors import DataError
from posttrain.types import Message, Sample


class PlainConversation:
    """A conversation as plain text: what is said is appended as it is, without a template.

    For models that have no chat template. A message is its content.
    """

    def __init__(self, tokenizer: Any, prompt: str, *, parser: str = "none") -> None:
        self.tokenizer = tokenizer
        self.messages: list[Message] = [{"role": "user", "content": prompt}]
        self.context_ids: tuple[int, ...] = tuple(encode_prompt(tokenizer, prompt))
        self.branched = False
        self._parse = parser_for(tokenizer, parser)
        self._sample: Sample | None = None

    def wrote(self, sample: Sample) -> Completion:
        """See `Conversation`."""
        text = str(self.tokenizer.decode(sample.ids, skip_special_tokens=True))
        completion = self._parse(text)
        self._sample = sample
        self.messages.append({"role": "assistant", "content": text})
        return completion

    def say(self, messages: Sequence[Message]) -> None:
        """See `Conversation`."""
        if self._sample is None:
            raise DataError("the model has written no turn since the last messages; let it write")
        text = "".join(str(m.get("content") or "") for m in messages)
        new = text_ids(self.tokenizer, text, start=False) if text else []
        self.context_ids = (*self.context_ids, *self._sample.ids, *new)
        self.messages += messages
        self._sample = None
