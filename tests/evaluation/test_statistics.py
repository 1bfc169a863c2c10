from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.evaluation.metrics import (
    per_question,
)
from posttrain.evaluation.statistics import (
    holm,
    mcnemar,
    mean_interval,
    paired_bootstrap,
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
