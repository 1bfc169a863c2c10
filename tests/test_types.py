"""The nouns that travel between modules."""

from __future__ import annotations

import pytest

from posttrain.errors import DataError
from posttrain.types import Rollout, plain_text


def test_messages_as_text() -> None:
    assert plain_text([{"role": "user", "content": "a"}, {"role": "tool"}]) == "user: a\ntool: "


def test_a_rollout_of_text_has_no_tokens() -> None:
    rollout = Rollout.of_text("some words", "length")
    assert not rollout.has_tokens and rollout.finish_reason == "length"
    with pytest.raises(DataError, match="some words"):
        _ = rollout.sample
