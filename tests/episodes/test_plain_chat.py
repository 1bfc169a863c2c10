"""Conversations without a template."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.episodes.plain_chat import PlainConversation
from posttrain.errors import DataError
from posttrain.types import Sample


def test_plain_text(tiny_tokenizer: Any) -> None:
    talk = PlainConversation(tiny_tokenizer, "2+3=")
    first = talk.context_ids
    assert talk.wrote(Sample([60, 61], [0.0] * 2, [0.0] * 2, "stop")).calls == []
    talk.say([{"role": "tool", "content": "5\n"}])
    assert not talk.branched
    assert talk.context_ids[: len(first) + 2] == (*first, 60, 61)
    assert tiny_tokenizer.decode(talk.context_ids[len(first) + 2 :]) == "5\n"
    with pytest.raises(DataError):
        talk.say([])
