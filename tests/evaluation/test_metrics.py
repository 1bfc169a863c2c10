"""Metrics of several samples per problem, by hand and as means over subsets."""

from __future__ import annotations

import math
from itertools import combinations

import pytest

from posttrain.evaluation.metrics import (
    answer_classes,
    g_pass_at_k,
    majority_at_k,
    mean_g_pass_at_k,
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


def test_g_pass_by_hand_and_by_counting() -> None:
    """Of 4 samples 2 right: of the 6 pairs one has both, four have one."""
    assert g_pass_at_k(4, 2, 2, 1.0) == pytest.approx(1 / 6) == pass_hat_k(4, 2, 2)
    assert g_pass_at_k(4, 2, 2, 0.5) == pytest.approx(5 / 6) == pass_at_k(4, 2, 2)
    correct = [1] * 5 + [0] * 4
    for k in (1, 3, 4):
        for right in range(1, k + 1):
            subsets = list(combinations(correct, k))
            counted = sum(sum(s) >= right for s in subsets) / len(subsets)
            assert g_pass_at_k(9, 5, k, right / k) == pytest.approx(counted)
    # k 4: shares 3/4 and 1, weight 2 / 4
    expected = (g_pass_at_k(9, 5, 4, 0.75) + g_pass_at_k(9, 5, 4, 1.0)) / 2
    assert mean_g_pass_at_k(9, 5, 4) == pytest.approx(expected)
    assert math.isnan(g_pass_at_k(3, 3, 4, 1.0)) and math.isnan(mean_g_pass_at_k(3, 3, 4))


def test_equal_answers_vote_together() -> None:
    def same(a: str, b: str) -> bool:
        return abs(float(a) - float(b)) <= 0.11

    answers = ["1", None, "5", "1.2", "1.1"]  # 1.1 joins 1 and 1.2
    assert answer_classes(answers, same) == ["1", None, "5", "1", "1"]
    correct = [0, 0, 0, 1, 1]
    assert vote_share(answers, correct) == pytest.approx(2 / 4)
    assert vote_share(answer_classes(answers, same), correct) == 1
