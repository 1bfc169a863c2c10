"""Quantiles, distances and temperatures: hand-worked numbers, and samples of the law itself."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.dynamics.calibration import (
    fit_temperature,
    ks_critical,
    ks_uniform,
    negative_log_likelihood,
    reliability,
    sample_quantiles,
)
from posttrain.dynamics.grid import GridDistribution
from posttrain.errors import DataError


def laws(count: int, *, seed: int = 0) -> GridDistribution:
    return GridDistribution(np.random.default_rng(seed).dirichlet(np.ones(20), count), 0.0, 0.5)


def test_the_distance_by_hand() -> None:
    assert ks_uniform([0.5]) == 0.5
    assert ks_uniform([0.1, 0.2, 0.3, 0.4]) == pytest.approx(0.6)
    assert ks_uniform(np.arange(0.5, 100) / 100) == pytest.approx(0.005)


def test_samples_of_the_law_itself_are_calibrated() -> None:
    law, draw = laws(1500), np.random.default_rng(1)
    truth = law.sample(1, draw)[0]
    exact = law.cdf(truth)
    sampled = sample_quantiles(law.sample(100, draw), truth, draw)
    for quantiles in (exact, sampled):
        assert ks_uniform(quantiles) < ks_critical(len(quantiles))
        assert reliability(quantiles).ece < 0.03
    np.testing.assert_allclose(sampled, exact, atol=0.25)


def test_a_law_that_is_too_narrow_is_found_and_mended() -> None:
    truth = laws(800).sample(1, np.random.default_rng(2))[0]
    narrow = laws(800).tempered(0.3)
    temperature = fit_temperature([narrow], [truth])
    assert temperature == pytest.approx(1 / 0.3, rel=0.15)
    mended = narrow.tempered(temperature)
    assert negative_log_likelihood([mended], [truth]) < negative_log_likelihood([narrow], [truth])
    assert reliability(mended.cdf(truth)).ece < reliability(narrow.cdf(truth)).ece


def test_the_likelihood_by_hand() -> None:
    law = GridDistribution(np.array([[0.5, 0.5], [0.25, 0.75]]), 0.0, 2.0)
    value = negative_log_likelihood([law], [np.array([0.0, 2.0])])
    assert value == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2)
    assert np.isfinite(negative_log_likelihood([law], [np.array([99.0, 0.0])]))


def test_equal_values_are_spread() -> None:
    draw = np.random.default_rng(0)
    u = sample_quantiles(np.zeros((9, 2000)), np.zeros(2000), draw)
    assert ks_uniform(u) < ks_critical(2000)


def test_what_is_no_quantile_is_refused() -> None:
    for values in ([], [1.2], [float("nan")]):
        with pytest.raises(DataError):
            ks_uniform(values)
    with pytest.raises(DataError):
        sample_quantiles(np.zeros((3, 4)), np.zeros(5), np.random.default_rng(0))
    with pytest.raises(DataError):
        fit_temperature([], [])
