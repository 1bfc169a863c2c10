"""Rows that a model writes: what is rejected, and how often it is asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from posttrain.labellers.proposals import _overlap, _words, proposed

ROWS = [{"id": "a", "text": "one two three four"}, {"id": "b", "text": "five six"}]


def test_overlap_by_hand() -> None:
    assert _overlap(_words("a b c"), _words("B, C; d!")) == pytest.approx(2 / 4)


def test_empty_and_similar_texts_are_rejected() -> None:
    answers = iter(["four three two one", "", "seven eight\nmore", "Eight seven", "nine", "ten"])
    asked: list[str] = []

    def ask(questions: Sequence[str]) -> list[str]:
        asked.extend(questions)
        return [next(answers) for _ in questions]

    rows = proposed(ask, ROWS, np.random.default_rng(0), num=2, prefix="p")
    assert rows == [{"id": "p-0", "text": "seven eight"}, {"id": "p-1", "text": "nine"}]
    assert len(asked) == 5 and "Text: five six" in asked[0]


def test_the_tries_end() -> None:
    asked: list[int] = []

    def ask(questions: Sequence[str]) -> list[str]:
        asked.append(len(questions))
        return ["five six" for _ in questions]

    assert proposed(ask, ROWS, np.random.default_rng(0), num=4) == []
    assert asked == [4, 4, 4]
