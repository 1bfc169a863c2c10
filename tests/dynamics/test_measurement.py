"""Forecasts, evaluation and calibration by their public functions."""

from __future__ import annotations

import numpy as np
import pytest

import posttrain as pt
from posttrain.dynamics.trajectory import Trajectory
from posttrain.errors import ConfigError, DataError, ModelError
from posttrain.models.language_model import LanguageModel
from posttrain.tasks.digit_series import draw_series


def episodes(count: int = 3, length: int = 60) -> list[Trajectory]:
    draw = np.random.default_rng(0)
    return [
        Trajectory(
            np.cumsum(draw.standard_normal((length, 2)), 0),
            draw.standard_normal((length, 1)),
            draw.standard_normal(length),
        )
        for _ in range(count)
    ]


def test_columns_are_continued_from_their_last_values(integer_model: LanguageModel) -> None:
    series = np.random.default_rng(0).standard_normal((400, 2))
    forecast = pt.dicl_forecast(integer_model, series, steps=5, how="sample", num_paths=3)
    assert forecast.paths.shape == (3, 5, 2) and len(forecast.context) == 250
    np.testing.assert_array_equal(forecast.context, series[-250:])
    assert (forecast.low < forecast.high).all() and forecast.cost.passes == 12
    assert pt.dicl_forecast(integer_model, series[:, 0], steps=2).paths.shape == (1, 2, 1)


def test_learners_are_compared_on_the_same_windows(integer_model: LanguageModel) -> None:
    learners = ["vicl", "dicl_s", "dicl_sa", "gaussian"]
    settings = {"window": 24, "num_windows": 4, "burn_in": 4, "num_samples": 10}
    result = pt.dicl_evaluate(
        integer_model, episodes(), learners=learners, num_components=1, **settings
    )
    assert [s.name for s in result.scores] == learners
    assert [s.passes for s in result.scores] == [8, 4, 4, 0]
    assert result.score("vicl").difference is None and result.score("gaussian").error.n == 4
    assert [x for x, _ in result.score("vicl").by_context] == [2, 4, 8, 16]
    again = pt.dicl_evaluate(
        integer_model, episodes(), learners=learners, num_components=1, **settings
    )
    assert str(again) == str(result)


def test_an_untrained_model_is_mended_by_a_temperature(integer_model: LanguageModel) -> None:
    draw = np.random.default_rng(1)
    series = [draw_series("autoregressive", 60, draw) for _ in range(4)]
    result = pt.dicl_calibrate(integer_model, series, window=40, num_windows=8, burn_in=8)
    assert result.temperature > 1.5  # its guesses are sure and wrong
    assert result.after["nll"] < result.before["nll"]


def test_what_cannot_be_measured_is_refused(integer_model: LanguageModel) -> None:
    for settings in (
        {"learners": ["icl"]},
        {"learners": []},
        {"window": 4},
        {"window": 61},
        {"window": 20, "burn_in": 19},
        {"num_windows": 1},
    ):
        with pytest.raises(ConfigError):
            pt.dicl_evaluate(integer_model, episodes(), **settings)  # type: ignore[arg-type]
    with pytest.raises(DataError):
        pt.dicl_evaluate(integer_model, [])
    for steps in (0, 300):
        with pytest.raises(ConfigError):
            pt.dicl_forecast(integer_model, np.arange(20.0), steps=steps)
    with pytest.raises(ConfigError):
        pt.dicl_calibrate(integer_model, episodes(), num_windows=1)
    with pytest.raises(ModelError):
        pt.dicl_forecast("embedded-dynamic", np.arange(20.0))
