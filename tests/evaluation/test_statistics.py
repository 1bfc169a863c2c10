from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.evaluation.metrics import (
    per_question,
)
from posttrain.evaluation.statistics import (
    clustered_interval,
    holm,
    mcnemar,
    mean_interval,
    paired_bootstrap,
    paired_t,
    t_interval,
    wilson_interval,
)


def test_wilson_by_hand() -> None:
    """8 of 10 at z = 1.96: centre (.8 + .19208) / 1.38416, half 1.96 / 1.38416 sqrt(.016 +
    .0096040).
    """
    got = wilson_interval(8, 10)
    assert (got.estimate, got.n) == (0.8, 10)
    assert got.low == pytest.approx(0.4902, abs=1e-4) and got.high == pytest.approx(
        0.9433, abs=1e-4
    )
    assert wilson_interval(0, 10).low == 0 and 0.2 < wilson_interval(0, 10).high < 0.31
    assert math.isnan(wilson_interval(0, 0).estimate)


def test_wilson_covers() -> None:
    draw = np.random.default_rng(0)
    for p in (0.05, 0.5, 0.9):
        hits = [
            (i := wilson_interval(int(draw.binomial(40, p)), 40)).low <= p <= i.high
            for _ in range(2000)
        ]
        assert 0.92 < np.mean(hits) < 0.985


def test_mean_interval_counts_questions_not_samples() -> None:
    """Samples of one question that always agree are one observation: the interval is that of
    the questions alone.
    """
    questions = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    same = mean_interval(per_question([[int(q)] * 50 for q in questions]))
    assert same == mean_interval(questions)
    mixed = mean_interval([0.2, 0.4, 0.6])
    assert mixed.estimate == pytest.approx(0.4)
    assert mixed.high - mixed.estimate == pytest.approx(1.959964 * 0.2 / math.sqrt(3), rel=1e-6)


def test_bootstrap_interval_and_null() -> None:
    draw = np.random.default_rng(1)
    a = draw.random(200)
    found = paired_bootstrap(a, a + draw.normal(0.05, 0.1, 200), num_resamples=2000)
    assert found.low < 0.05 < found.high and found.p_value < 0.01
    assert paired_bootstrap(a, a, num_resamples=500).p_value == 1.0
    null = [
        paired_bootstrap(
            x := draw.normal(size=60), x + draw.normal(size=60), num_resamples=300, seed=i
        ).p_value
        for i in range(300)
    ]
    assert 0.02 < np.mean(np.array(null) < 0.05) < 0.09
    assert paired_bootstrap(a, a + 0.1) == paired_bootstrap(a, a + 0.1)  # by seed


def test_mcnemar_by_hand() -> None:
    """One question won by a alone, five by b alone: 2 (1 + 6) / 2^6 = 0.21875."""
    a = [1, 0, 0, 0, 0, 0, 1, 0]
    b = [0, 1, 1, 1, 1, 1, 1, 0]
    assert mcnemar(a, b) == pytest.approx(0.21875)
    assert mcnemar(a, a) == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_clusters_by_hand() -> None:
    """Values 0, 0, 1, 1 in two clusters of two: sums -1 and 1, SE^2 = 2 (1 + 1) / 16 = 1/4."""
    got = clustered_interval([0, 0, 1, 1], ["a", "a", "b", "b"])
    assert (got.estimate, got.n) == (0.5, 2)
    assert got.high - got.estimate == pytest.approx(1.959964 * 0.5, rel=1e-6)
    x = np.random.default_rng(0).random(40)
    alone = clustered_interval(x, range(40))
    usual = mean_interval(x, are_shares=False)
    assert (alone.low, alone.high) == pytest.approx((usual.low, usual.high))
    assert clustered_interval([1.0, 0.0], ["a", "a"]).high == math.inf
    with pytest.raises(ConfigError):
        clustered_interval([1.0], [])


def test_clusters_cover_where_questions_do_not() -> None:
    """Clusters of ten questions with a common difference: under the null the plain interval
    excludes 0 in far more than 5 % of the draws, the clustered one in about 5 %.
    """
    draw = np.random.default_rng(2)
    names = np.repeat(np.arange(40), 10)
    plain = clustered = 0
    for _ in range(400):
        x = np.repeat(draw.normal(size=40), 10) + draw.normal(size=400)
        a, b = mean_interval(x, are_shares=False), clustered_interval(x, list(names))
        plain += not a.low <= 0 <= a.high
        clustered += not b.low <= 0 <= b.high
    assert plain / 400 > 0.25 and 0.02 < clustered / 400 < 0.1


@pytest.mark.parametrize(
    ("n", "quantile"),
    [(2, 12.706205), (3, 4.302653), (5, 2.776445), (6, 2.570582), (11, 2.228139), (31, 2.042272)],
)
def test_students_interval_against_the_table(n: int, quantile: float) -> None:
    values = np.arange(n, dtype=float)
    interval = t_interval(values)
    error = values.std(ddof=1) / math.sqrt(n)
    assert interval.estimate == (n - 1) / 2
    assert (interval.high - interval.estimate) / error == pytest.approx(quantile, rel=1e-6)


def test_one_run_has_no_bounds() -> None:
    interval = t_interval([3.0])
    assert (interval.estimate, interval.low, interval.high) == (3, -math.inf, math.inf)
    assert math.isnan(paired_t([1.0], [2.0]).p_value)
    assert math.isnan(t_interval([]).estimate)


def test_students_paired_test() -> None:
    """Differences 1, 2, 3: t = 2 / (1 / sqrt 3) = 3.4641, p = 0.07418 with 2 degrees."""
    difference = paired_t([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    assert difference.p_value == pytest.approx(0.0741799, rel=1e-5)
    assert paired_t([0.0, 0.0], [-1.0, 1.0]).p_value == pytest.approx(1)
    with pytest.raises(ConfigError):
        paired_t([0.0], [1.0, 2.0])


def test_students_interval_covers() -> None:
    draw = np.random.default_rng(2)
    hits = [(i := t_interval(draw.normal(1, 3, 5))).low <= 1 <= i.high for _ in range(2000)]
    assert 0.935 < np.mean(hits) < 0.965
