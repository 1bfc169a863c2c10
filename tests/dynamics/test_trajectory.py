"""vICL, DICL-(s) and DICL-(s,a): what they forecast, and how many passes they take."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.dynamics.forecaster import Forecaster
from posttrain.dynamics.trajectory import Trajectory, continue_features, forecast_states
from posttrain.errors import ConfigError, DataError
from posttrain.models.language_model import LanguageModel

DRAW = np.random.default_rng(0)
EPISODE = Trajectory(
    np.cumsum(DRAW.standard_normal((12, 4)), 0), DRAW.standard_normal(12), DRAW.standard_normal(12)
)


def test_each_feature_of_vicl_is_its_own_series(integer_model: LanguageModel) -> None:
    forecaster = Forecaster(integer_model)
    forecast = forecast_states(forecaster, EPISODE, "vicl")
    alone = forecaster.forecast([EPISODE.states[:, 2]])[0]
    np.testing.assert_allclose(forecast.point()[:, 2], alone.mean, atol=1e-5)
    np.testing.assert_allclose(forecast.point("mode")[:, 2], alone.mode, atol=1e-5)


def test_half_of_the_components_take_half_of_the_passes(integer_model: LanguageModel) -> None:
    whole, half = Forecaster(integer_model), Forecaster(integer_model)
    forecast_states(whole, EPISODE, "dicl_s")
    forecast = forecast_states(half, EPISODE, "dicl_s", num_components=2)
    assert (whole.cost.passes, half.cost.passes) == (4, 2)
    assert half.cost.tokens * 2 == whole.cost.tokens
    assert forecast.point().shape == (12, 4)
    samples = forecast.samples(7, np.random.default_rng(0))
    assert samples.shape == (7, 12, 4)


def test_actions_are_features_of_dicl_sa_and_states_alone_are_given(
    integer_model: LanguageModel,
) -> None:
    forecaster = Forecaster(integer_model)
    forecast = forecast_states(forecaster, EPISODE, "dicl_sa")
    assert forecaster.cost.passes == 5 and forecast.point().shape == (12, 4)
    means = np.stack([law.mean for law in forecast.components], 1)
    np.testing.assert_allclose(forecast.point(), forecast.map.decode(means)[:, :4])


def test_features_are_continued_with_rewards(integer_model: LanguageModel) -> None:
    forecaster = Forecaster(integer_model)
    paths = continue_features(
        forecaster, EPISODE, 2, rewards=True, num_components=3, how="sample", num_paths=5
    )
    assert paths.shape == (5, 2, 6) and np.isfinite(paths).all()


def test_what_is_missing_or_broken_is_refused(integer_model: LanguageModel) -> None:
    series = Trajectory(EPISODE.states)
    assert len(series[2:5]) == 3 and series[2:5].actions is None
    with pytest.raises(DataError):
        series.features("dicl_sa")
    with pytest.raises(DataError):
        series.features("vicl", rewards=True)
    with pytest.raises(ConfigError):
        series.features("icl")  # type: ignore[arg-type]
    for broken in ((EPISODE.states, np.zeros(3)), (np.full((3, 1), np.nan),)):
        with pytest.raises(DataError):
            Trajectory(*broken)
