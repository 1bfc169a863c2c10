"""Selectors of one model, on numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.selectors import uncertainty as u

# Row 0 is sure, row 1 torn between two classes, row 2 spread over three.
P = np.array([[0.9, 0.05, 0.05], [0.5, 0.5, 0.0], [0.4, 0.35, 0.25]])


def test_three_measures_of_uncertainty_order_the_rows_differently() -> None:
    # 1 - max: .1, .5, .6; margins: .85, 0, .05; entropies: .394, .693, 1.081.
    assert u.least_confidence(P, 3).tolist() == [2, 1, 0]
    assert u.margin(P, 3).tolist() == [1, 2, 0]
    assert u.entropy(P, 3).tolist() == [2, 1, 0]
    assert u.entropy(P, 1).tolist() == [2]


def test_random_is_a_function_of_the_generator() -> None:
    first = u.random(50, 10, np.random.default_rng(3)).tolist()
    assert first == u.random(50, 10, np.random.default_rng(3)).tolist()
    assert len(set(first)) == 10 and max(first) < 50


def test_entropies_over_the_tokens_of_a_completion() -> None:
    rows = [[0.1, 0.1, 2.0], [1.0, 1.0, 1.0], []]
    assert u.token_entropy(rows, 3).tolist() == [0, 1, 2]
    assert u.sequence_entropy(rows, 3).tolist() == [1, 0, 2]
    assert u.sequence_likelihood([[-0.1, -0.1], [-3.0], []], 3).tolist() == [1, 0, 2]


def test_semantic_entropy_counts_meanings_and_not_texts() -> None:
    answers = [["Paris", " paris ", "PARIS", "paris"], ["4", "5", "4", "5"], ["a", "b", "c", "a"]]
    assert u.semantic_entropy(answers, 3).tolist() == [2, 1, 0]
    shares = u._shares(answers[2])
    assert sorted(shares) == pytest.approx([0.25, 0.25, 0.5])
    assert u.disagreement(answers, 3).tolist() == [2, 1, 0]  # 3/4, 2/4, 1/4


def test_learnability_is_greatest_at_half() -> None:
    grades = [[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert u.learnability(grades, 2).tolist() == [1, 2]
    assert u.learnability([[np.nan, 1.0], [1.0, 0.0]], 1).tolist() == [1]
