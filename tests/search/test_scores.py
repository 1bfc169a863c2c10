"""Candidates with scores, and their order."""

from __future__ import annotations

import math

import pytest

from posttrain.search.base import Candidate
from posttrain.search.scores import best_paths, best_place, number_of, rank, scored, softmax


def path(score: float | None, logprob: float = -1.0) -> Candidate:
    return Candidate((1,), "a", logprob, True, score=score)


def test_the_order_of_scores() -> None:
    none, low, high = path(None), path(0.1), path(0.2)
    assert number_of(none) == -math.inf and rank(low) == (0.1, -1.0)
    assert best_place([none, low, high]) == 2
    assert best_place([none, low, high], [True, True, False]) == 1
    assert best_place([low, path(0.1, -0.5), path(0.1, -0.5)]) == 1  # the likelier, then the first
    assert best_paths([low, high, none], 2) == [high, low]


def test_scores_are_given_in_order(scores, search) -> None:
    score = scores(lambda c: c.logprob)
    assert [c.score for c in search(scored([path(None, -3.0), path(None, -2.0)], score))] == [
        -3,
        -2,
    ]


def test_softmax() -> None:
    assert softmax([0.0, math.log(3)]) == pytest.approx([0.25, 0.75])
    assert softmax([-math.inf, 2.0]) == [0, 1] and softmax([-math.inf] * 2) == [0.5, 0.5]
