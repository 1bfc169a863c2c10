"""Baselines on dynamics that are known."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.dynamics.baselines import NormalForecast, gaussian_forecast, network_forecast
from posttrain.dynamics.trajectory import Trajectory
from posttrain.errors import DataError


def test_moments_of_the_context_so_far() -> None:
    states = np.array([[1.0], [3.0], [8.0]])
    forecast = gaussian_forecast(Trajectory(states))
    np.testing.assert_allclose(forecast.mean[:, 0], [1, 2, 4])
    np.testing.assert_allclose(forecast.std[:, 0], [1, 1, states.std()])


def test_the_normal_distribution_function_and_its_samples() -> None:
    forecast = NormalForecast(np.array([[1.0]]), np.array([[2.0]]))
    np.testing.assert_allclose(forecast.cdf([[1.0]]), 0.5)
    np.testing.assert_allclose(forecast.cdf([[1 + 2 * 1.959964]]), 0.975, atol=1e-6)
    samples = forecast.samples(4000, np.random.default_rng(0))
    assert samples.shape == (4000, 1, 1) and samples.std() == pytest.approx(2, abs=0.1)


def test_a_network_learns_linear_dynamics_better_than_persistence() -> None:
    draw = np.random.default_rng(0)
    actions = draw.standard_normal((300, 1))
    states = np.zeros((300, 2))
    for t in range(299):
        states[t + 1] = states[t] @ np.array([[0.9, 0.1], [-0.1, 0.9]]) + 0.5 * actions[t]
    episode = Trajectory(states, actions)
    settings = {"hidden": 32, "num_layers": 2, "num_epochs": 60, "learning_rate": 1e-2}
    forecast = network_forecast(episode[:200], episode[200:], **settings)  # type: ignore[arg-type]
    error = ((forecast.mean[:-1] - states[201:]) ** 2).mean()
    persistence = ((states[200:-1] - states[201:]) ** 2).mean()
    assert error < 0.1 * persistence
    again = network_forecast(episode[:200], episode[200:], **settings)  # type: ignore[arg-type]
    np.testing.assert_array_equal(forecast.mean, again.mean)


def test_a_short_context_is_refused() -> None:
    short = Trajectory(np.zeros((5, 1)))
    with pytest.raises(DataError):
        network_forecast(short, short)
