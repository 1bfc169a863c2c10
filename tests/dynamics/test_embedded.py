"""The dynamics model that ships with the package, on series that it was not trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import posttrain as pt
from posttrain.dynamics.forecaster import Forecaster
from posttrain.model_config import model_location
from posttrain.tasks.digit_series import draw_series


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    return Forecaster(pt.load("embedded-dynamics"))


def test_it_is_small_and_has_a_token_per_integer(forecaster: Forecaster) -> None:
    files = Path(model_location("embedded-dynamics")).rglob("*")
    assert sum(file.stat().st_size for file in files if file.is_file()) < 2_000_000
    assert not forecaster.tokens.per_digit and forecaster.tokens.digits == 2
    assert forecaster.max_values == 131


def test_its_forecasts_are_better_than_the_mean_of_the_context(forecaster: Forecaster) -> None:
    draw = np.random.default_rng(2_000_000)
    series = [draw_series("autoregressive", 128, draw) for _ in range(12)]
    series += [draw_series("sinusoids", 128, draw) for _ in range(12)]
    ours, means = [], []
    for values, law in zip(series, forecaster.forecast(series), strict=True):
        count = np.arange(1, 128)
        ours.append((law.mean[31:-1] - values[32:]) ** 2 / values.var())
        means.append((np.cumsum(values)[:-1] / count - values[1:])[31:] ** 2 / values.var())
    assert np.mean(ours) < 0.8 * np.mean(means)
