"""Drafts from a text's own past."""

from __future__ import annotations

import pytest

from posttrain.engines.drafts import PromptLookup
from posttrain.errors import ConfigError


def test_what_followed_the_last_time_is_drafted() -> None:
    lookup = PromptLookup()
    text = (1, 2, 3, 4, 9, 2, 3, 5, 6, 1, 2, 3)
    assert lookup([text], [2]) == [[4, 9]]  # three tokens match at the beginning
    assert PromptLookup(max_match=2)([text], [2]) == [[5, 6]]  # two match later
    assert lookup([text, (1, 2, 3), (7,), text], [9, 4, 4, 0]) == [
        [4, 9, 2, 3, 5, 6, 1, 2, 3],
        [],
        [],
        [],
    ]
    assert lookup([(5, 5)], [3]) == [[5]]
    assert PromptLookup(min_match=2)([(1, 2, 3, 1)], [3]) == [[]]


def test_refuses() -> None:
    with pytest.raises(ConfigError):
        PromptLookup(max_match=1, min_match=2)
