"""Rewards of the form of a completion, by hand."""

from __future__ import annotations

import pytest

from posttrain.errors import ConfigError
from posttrain.rewards.format import keyword, length, overlong, pattern, tags


def test_form() -> None:
    good = "<think>a</think>\n<answer>b</answer>"
    assert tags([good, good + "x", "<think>a</think>"]) == [1, 0, 0]
    assert tags(["<think>a</think>", ""], partial=True) == [0.5, 0]
    assert pattern(["ab12", "ab"], regex=r"\d+$") == [1, 0]
    with pytest.raises(ConfigError, match="not a regular expression"):
        pattern(["a"], regex="(")
    assert keyword(["The Sun and moon", ""], words=["sun", "moon", "star"]) == [2 / 3, 0]
    assert length([[1] * 4, [1] * 8, [1] * 20], target=8) == [0.5, 1, 0]
    # DAPO eq. 13 with max 10, buffer 4: up to 6 nothing, at 8 half, beyond 10 all
    assert overlong([[1] * n for n in (6, 8, 10, 15)], max_length=10, buffer=4) == [0, -0.5, -1, -1]
    with pytest.raises(ConfigError, match="buffer 10"):
        overlong([[1]], max_length=10, buffer=10)
