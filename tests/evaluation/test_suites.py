"""Suites before and after: flips both ways, nats per token, intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.errors import DataError
from posttrain.evaluation.outcomes import Evaluation, Outcome
from posttrain.evaluation.statistics import mcnemar
from posttrain.evaluation.suites import graded_change, likelihood_change


def evaluation(correct: list[int], task: str = "sums") -> Evaluation:
    outcomes = [
        Outcome(str(i), f"{i}+{i}=", str(2 * i), [c], [str(c)], [3]) for i, c in enumerate(correct)
    ]
    return Evaluation(task, {}, 0, 1, outcomes)


def test_flips_both_ways_are_counted() -> None:
    before, after = [1, 1, 1, 0, 0, 1], [1, 0, 0, 1, 0, 0]
    change = graded_change(evaluation(before), evaluation(after))
    assert (change.lost, change.gained) == (3, 1)
    assert change.difference.estimate == pytest.approx(-2 / 6)
    assert change.loss == pytest.approx(2 / 6)
    assert change.difference.p_value == mcnemar(before, after)


def test_other_problems_are_refused() -> None:
    with pytest.raises(DataError):
        graded_change(evaluation([1, 0]), evaluation([1, 0, 1]))


def test_nats_per_token_weigh_rows_by_their_tokens() -> None:
    change = likelihood_change("text", [10.0, 2.0], [13.0, 3.0], [8, 2])
    assert change.before == pytest.approx(1.2)
    assert change.after == pytest.approx(1.6)
    assert change.difference.estimate == pytest.approx(0.4)
    assert change.loss == pytest.approx(0.4)


def test_the_interval_of_nats_covers_the_truth_as_often_as_it_says() -> None:
    draw, hits, trials = np.random.default_rng(0), 0, 200
    for _trial in range(trials):
        sizes = draw.integers(5, 40, 60)
        before = draw.normal(2.0, 0.3, 60) * sizes
        after = before + draw.normal(0.1, 0.2, 60) * sizes
        d = likelihood_change("t", list(before), list(after), list(sizes)).difference
        hits += d.low <= 0.1 <= d.high
    # Binomial with p = .93 (the percentile interval is a little short at n = 60).
    assert 0.93 - 3.5 * math.sqrt(0.93 * 0.07 / trials) < hits / trials <= 1.0


def test_a_suite_without_tokens_is_refused() -> None:
    with pytest.raises(DataError):
        likelihood_change("empty", [], [], [])
