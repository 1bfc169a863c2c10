"""ROUGE-L against the textbook recurrence."""

from __future__ import annotations

import random

import pytest

from posttrain.data.rouge import RougeAgainst, rouge_l, words_of


def lcs(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


def test_common_subsequences_are_those_of_the_table() -> None:
    draw = random.Random(0)
    for _ in range(200):
        a, b = (draw.choices("abcd", k=draw.randint(0, 12)) for _ in range(2))
        assert RougeAgainst(a).common(b) == lcs(a, b)


def test_scores() -> None:
    assert rouge_l("Police killed the gunman", "police KILL the gunman") == pytest.approx(0.75)
    assert rouge_l("a b c", "a b c") == 1.0 and rouge_l("a", "") == rouge_l("", "") == 0.0
    assert rouge_l("a b", "a b c d") == pytest.approx(2 * 2 / 6)


def test_the_highest_of_many() -> None:
    draw = random.Random(1)
    one = draw.choices("abcdef", k=8)
    others = [draw.choices("abcdef", k=draw.randint(1, 15)) for _ in range(50)]
    against = RougeAgainst(one)
    assert against.highest(others) == max(against.score(other) for other in others)
    assert against.highest([]) == 0.0 and words_of("A, b!") == ["a", "b"]
