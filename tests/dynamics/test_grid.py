"""Distributions on a grid: hand-worked numbers, and sums over bins."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.dynamics.grid import GridDistribution
from posttrain.errors import DataError


def two() -> GridDistribution:
    return GridDistribution(np.array([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]), origin=1.0, width=2.0)


def test_moments_mode_and_density_by_hand() -> None:
    p = two()
    np.testing.assert_allclose(p.centres, [1, 3, 5])
    np.testing.assert_allclose(p.mean, [2.5, 3.0])
    np.testing.assert_allclose(p.mode, [1.0, 3.0])
    variance = 0.5 * 1.5**2 + 0.25 * 0.5**2 + 0.25 * 2.5**2
    np.testing.assert_allclose(p.std, np.sqrt([variance + 4 / 12, 4 / 12]))
    np.testing.assert_allclose(p.log_density([1.9, 3.5]), np.log([0.25, 0.5]))
    assert p.log_density([100.0, 3.0])[0] == -np.inf


def test_quantiles_are_the_inverse_of_the_distribution_function() -> None:
    p = two()
    np.testing.assert_allclose(p.cdf([1.0, 3.0]), [0.25, 0.5])
    np.testing.assert_allclose(p.cdf(-50.0), 0)
    np.testing.assert_allclose(p.cdf(50.0), 1)
    for share in (0.1, 0.5, 0.77, 0.99):
        np.testing.assert_allclose(p.cdf(p.quantile(share)), share, atol=1e-12)
    np.testing.assert_allclose(p.quantile(1.0), [6.0, 4.0])


def test_samples_have_the_moments() -> None:
    p = two()
    values = p.sample(4000, np.random.default_rng(0))
    assert values.shape == (4000, 2)
    np.testing.assert_allclose(values.mean(0), p.mean, atol=0.1)
    np.testing.assert_allclose(values.std(0), p.std, atol=0.1)


def test_temperature_and_divergences() -> None:
    p = two()[:1]
    q = p.tempered(2.0)
    expected = np.sqrt([0.5, 0.25, 0.25]) / np.sqrt([0.5, 0.25, 0.25]).sum()
    np.testing.assert_allclose(q.mass[0], expected)
    np.testing.assert_allclose(p.tempered(1.0).mass, p.mass)
    by_hand = (p.mass * np.log(p.mass / q.mass)).sum()
    np.testing.assert_allclose(p.kl(q), [by_hand])
    np.testing.assert_allclose(p.kl(p), [0], atol=1e-12)
    np.testing.assert_allclose(p.bhattacharyya(q), -np.log(np.sqrt(p.mass * q.mass).sum()))


def test_what_is_no_distribution_is_refused() -> None:
    for mass in (np.ones((1, 3)), np.array([[1.5, -0.5]]), np.array([1.0])):
        with pytest.raises(DataError):
            GridDistribution(mass, 0.0, 1.0)
    with pytest.raises(DataError):
        two().tempered(0.0)
    with pytest.raises(DataError):
        two().kl(GridDistribution(two().mass, 0.0, 1.0))
