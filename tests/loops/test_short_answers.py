"""Rows of the shortest right samples."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.errors import DataError
from posttrain.loops.short_answers import short_rows


def samples(prompt: Any, *verdicts: tuple[str, float]) -> list[dict[str, Any]]:
    chat = not isinstance(prompt, str)
    return [
        {
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": t}] if chat else t,
            "reward": r,
        }
        for t, r in verdicts
    ]


ROWS = [
    *samples("a", ("long right", 1.0), ("right", 1.0), ("no", 0.0), ("longest and wrong", 0.0)),
    *samples("b", ("one", 1.0), ("two", 0.0)),
    *samples("c", ("xyz", 1.0), ("uvw", 1.0), ("wrong", 0.0)),
]


def test_the_shortest_right_sample_is_imitated() -> None:
    assert short_rows(ROWS) == [
        {"prompt": "a", "completion": "right"},
        {"prompt": "c", "completion": "xyz"},
    ]
    assert {"prompt": "b", "completion": "one"} in short_rows(ROWS, min_right=1)


def test_it_is_preferred_to_a_longer_right_one_and_to_a_wrong_one_else() -> None:
    assert short_rows(ROWS, kind="pairs") == [
        {"prompt": "a", "chosen": "right", "rejected": "long right"},
        {"prompt": "c", "chosen": "xyz", "rejected": "wrong"},
    ]


def test_a_length_of_your_own() -> None:
    (first, *_) = short_rows(ROWS, length=lambda text: -len(text))
    assert first["completion"] == "long right"


def test_chats_stay_chats() -> None:
    chat = [{"role": "user", "content": "a"}]
    (row,) = short_rows(samples(chat, ("12", 1.0), ("1", 1.0)))
    assert row == {"prompt": chat, "completion": [{"role": "assistant", "content": "1"}]}


def test_rows_without_a_verdict_or_a_right_sample_are_refused() -> None:
    for rows in ([{"prompt": "a"}], samples("a", ("x", 1.0)), samples("a", ("x", 0.0), ("y", 0.0))):
        with pytest.raises(DataError):
            short_rows(rows)
    with pytest.raises(DataError):
        short_rows(samples("a", ("x", 1.0), ("y", 1.0)), kind="pairs")
