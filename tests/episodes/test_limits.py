"""Room for the next turn, and why a completion was cut."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.episodes.limits import EpisodeLimits
from posttrain.errors import ConfigError
from posttrain.types import Sample, Sampling


def ask(context_length: int | None = None, max_tokens: int = 50) -> Any:
    return SimpleNamespace(context_length=context_length, sampling=Sampling(max_tokens=max_tokens))


@pytest.mark.parametrize(
    ("limits", "context_length", "num_context", "num_sampled", "room"),
    [
        ({}, None, 10_000, 10_000, 50),
        ({"max_tokens": 60}, None, 0, 20, 40),
        ({"max_tokens": 60}, None, 0, 60, "max_tokens"),
        ({"max_context": 100}, None, 70, 0, 30),
        ({"max_context": 100}, 90, 70, 0, 20),
        ({}, 90, 90, 0, "context_overflow"),
    ],
)
def test_room(
    limits: dict[str, Any],
    context_length: int | None,
    num_context: int,
    num_sampled: int,
    room: int | str,
) -> None:
    given = EpisodeLimits(**limits)
    assert given.room(ask(context_length), num_context, num_sampled) == room


def test_cut() -> None:
    limits = EpisodeLimits(max_context=100)
    full = Sample([1] * 30, [0.0] * 30, [0.0] * 30, "length")
    assert limits.cut(ask(), 70, full) == "context_overflow"
    assert limits.cut(ask(), 60, full) == "max_tokens"
    assert EpisodeLimits().cut(ask(), 60, full) == "max_tokens"


def test_limits_are_checked() -> None:
    with pytest.raises(ConfigError, match="max_turns"):
        EpisodeLimits(max_turns=-1)
