"""ROUGE-L and edit similarity, beside plain tables."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest

from posttrain.errors import ConfigError
from posttrain.rewards.similarity import (
    edit_distance,
    edit_similarity,
    longest_common_subsequence,
    rouge_l,
    rouge_l_score,
)


def plain_lcs(left: Sequence[str], right: Sequence[str]) -> int:
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


def plain_distance(left: str, right: str) -> int:
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def test_beside_plain_tables() -> None:
    draw = random.Random(0)
    for _ in range(200):
        left = "".join(draw.choices("abc", k=draw.randint(0, 12)))
        right = "".join(draw.choices("abc", k=draw.randint(0, 12)))
        assert longest_common_subsequence(left, right) == plain_lcs(left, right)
        assert edit_distance(left, right) == plain_distance(left, right)


def test_values_by_hand() -> None:
    # LCS "police the gunman" of 4 and 4 words (Lin 2004, section 3.1)
    assert rouge_l_score("police kill the gunman", "police killed the gunman") == 0.75
    assert rouge_l_score("a b", "a b c d", beta=2.0) == pytest.approx(5 * 0.5 / (0.5 + 4))
    assert rouge_l(["A, b!", "", "x"], ["a b", "", "y"]) == [1, 1, 0]
    assert edit_similarity(["kitten", "", " a "], ["sitting", "", "a"]) == pytest.approx(
        [1 - 3 / 7, 1, 1]
    )
    with pytest.raises(ConfigError):
        rouge_l(["a"], ["a"], beta=0.0)


def test_long_texts_take_seconds_at_most() -> None:
    started = time.process_time()
    edit_similarity(["ab" * 100_000], ["ba" * 100_000])
    rouge_l(["a b " * 50_000], ["b a " * 50_000])
    assert time.process_time() - started < 30
