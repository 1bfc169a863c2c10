"""Abstaining, and the bound by which its threshold is chosen."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.search.abstention import (
    binomial_tail,
    calibrate_threshold,
    clopper_pearson_upper,
    selective_best_of_n,
    selective_vote,
)
from posttrain.search.base import Candidate


def fixed(*texts: str):
    return lambda context, n: [Candidate((1,), t, 0.0, True) for t in texts[:n]]


def test_a_vote_that_is_not_clear_is_no_answer(scripted, search) -> None:
    ask = fixed("a", "a", "b", "")
    extract = {"a": "a", "b": "b"}.get
    s = search(selective_vote((1,), scripted(ask), extract, num_samples=4, threshold=0.5))
    assert s.answer == "a" and not s.abstained and s.notes == {"share": 0.5, "abstained": 0.0}
    s = search(selective_vote((1,), scripted(ask), extract, num_samples=4, threshold=0.6))
    assert s.answer is None and s.abstained and s.notes == {"share": 0.5, "abstained": 1.0}
    s = search(selective_vote((1,), scripted(fixed("", "")), extract, num_samples=2))
    assert s.abstained and s.notes["share"] == 0
    s = search(selective_vote((1,), scripted(ask), extract, num_samples=1))
    assert s.answer == "a" and s.notes["share"] == 1


def test_a_low_score_is_no_answer(scripted, scores, search) -> None:
    score = scores(lambda c: {"a": 0.2, "b": 0.4}[c.text])
    for threshold, answer in ((0.4, "b"), (0.41, None)):
        s = search(
            selective_best_of_n(
                (1,), scripted(fixed("a", "b")), str, score, num_samples=2, threshold=threshold
            )
        )
        assert s.answer == answer and s.abstained == (answer is None) and s.text == "b"


def test_binomial_tails_by_counting() -> None:
    for n, p in product((1, 4, 6), (0.0, 0.2, 0.7, 1.0)):
        for k in range(n + 1):
            exact = sum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k + 1))
            assert binomial_tail(k, n, p) == pytest.approx(exact, abs=1e-12)


def test_clopper_pearson_by_hand() -> None:
    assert clopper_pearson_upper(0, 59) == pytest.approx(1 - 0.05 ** (1 / 59), abs=1e-9)
    assert clopper_pearson_upper(9, 9) == 1.0
    # 1 of 10 at 95 %: (1 - p)^10 + 10 p (1 - p)^9 = 0.05 at p = 0.39416
    assert clopper_pearson_upper(1, 10) == pytest.approx(0.39416, abs=1e-5)


def test_a_threshold_by_hand() -> None:
    """100 problems with share 1 and no error, 100 with share 0.5 and 50 errors. With two
    thresholds each is tested at 0.025: (1 - 0.05)^100 = 0.0059 passes, the other does not.
    """
    shares = [1.0] * 100 + [0.5] * 100
    correct = [1] * 150 + [0] * 50
    found = calibrate_threshold(shares, correct, max_risk=0.05, thresholds=(0.5, 1.0))
    assert (found.threshold, found.coverage, found.error_rate) == (1.0, 0.5, 0.0)
    assert found.num_answered == 100
    assert found.error_bound == pytest.approx(1 - 0.025 ** (1 / 100), abs=1e-9)
    assert calibrate_threshold(shares, correct, max_risk=0.4, thresholds=(0.5, 1.0)).coverage == 1
    few = calibrate_threshold([1.0] * 10, [1] * 10, max_risk=0.05)
    assert few.threshold == math.inf and few.coverage == 0
    for bad in ({"max_risk": 0.0}, {"max_risk": 0.1, "confidence": 1.0}):
        with pytest.raises(ConfigError):
            calibrate_threshold([1.0], [1], **bad)
    with pytest.raises(ConfigError):
        calibrate_threshold([1.0, 0.5], [1], max_risk=0.1)


def test_the_risk_is_kept() -> None:
    """P(right | share s) = s: the risk above t is 1 - (1 + t) / 2. Over 300 calibrations the chosen
    threshold exceeds the risk in at most 5 % (and three standard errors), and some answer is given.
    """
    draw = np.random.default_rng(0)
    runs, exceeded, coverage = 300, 0, []
    for _ in range(runs):
        shares = draw.random(1000)
        correct = draw.random(1000) < shares
        found = calibrate_threshold(shares, correct, max_risk=0.2)
        coverage.append(found.coverage)
        if found.threshold < math.inf:
            exceeded += (1 - found.threshold) / 2 > 0.2
    assert exceeded / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert 0.1 < np.mean(coverage) < 0.4  # at most 0.4 keeps the risk
