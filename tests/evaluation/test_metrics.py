"""Metrics of several samples per problem, by hand and as means over subsets."""

from __future__ import annotations

import math

import pytest

from posttrain.evaluation.metrics import (
    majority_at_k,
    pass_at_k,
    pass_hat_k,
    vote_share,
)


def test_pass_at_k() -> None:
    assert pass_at_k(20, 3, 5) == pytest.approx(0.6009, abs=1e-4)  # 1 - C(17, 5) / C(20, 5)
    assert pass_at_k(20, 3, 5) == pytest.approx(1 - math.comb(17, 5) / math.comb(20, 5))
    assert pass_at_k(4, 1, 1) == 0.25 and pass_at_k(4, 0, 4) == 0 and pass_at_k(4, 1, 4) == 1
    assert math.isnan(pass_at_k(3, 3, 4))
    assert pass_hat_k(4, 2, 2) == pytest.approx(1 / 6)


def test_votes() -> None:
    assert vote_share(["7", "7", "8"], [1, 1, 0]) == 1
    assert vote_share(["7", "8"], [1, 0]) == 0.5  # a tie shares the credit
    assert vote_share([None, None, "8"], [0, 0, 1]) == 1  # no answer, no vote
    assert vote_share([None], [0]) == 0


def test_majority_at_k_is_the_mean_over_subsets() -> None:
    answers, correct = ["7", "7", "8", "9"], [1, 1, 0, 0]
    pairs = {("7", "7"): 1.0, ("7", "8"): 0.5, ("7", "9"): 0.5, ("8", "9"): 0.0}
    expected = (pairs["7", "7"] + 2 * pairs["7", "8"] + 2 * pairs["7", "9"] + pairs["8", "9"]) / 6
    assert majority_at_k(answers, correct, 2) == pytest.approx(expected)
    assert majority_at_k(answers, correct, 1) == 0.5
    assert majority_at_k(answers, correct, 4) == 1
    assert math.isnan(majority_at_k(answers, correct, 5))
    many = ["7"] * 12 + ["8"] * 8
    assert majority_at_k(many, [1] * 12 + [0] * 8, 7, seed=1) == pytest.approx(0.75, abs=0.1)
