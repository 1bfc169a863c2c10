"""Forecasts against plain forward passes, one value and one number at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posttrain.data.number_text import NumberFormat
from posttrain.dynamics.forecaster import Forecaster
from posttrain.dynamics.hierarchy import digits_of
from posttrain.errors import ConfigError, DataError
from posttrain.models.language_model import LanguageModel

SERIES = [np.array([0.0, 1.0, 0.4, 0.7, 0.1]), np.array([5.0, -2.0, 3.0])]


def restricted(model: LanguageModel, ids: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits = model.hf(input_ids=torch.from_numpy(ids)[None]).logits[0, -1]
    return torch.softmax(logits[torch.from_numpy(numbers)].double(), -1).numpy()


def brute_force(model: LanguageModel, forecaster: Forecaster, context: np.ndarray) -> np.ndarray:
    """P(next number) by a forward pass for each of its beginnings."""
    tokens = forecaster.tokens
    ids = tokens.encode(context).reshape(-1)
    if not tokens.per_digit:
        return restricted(model, ids, tokens.ids)
    mass = np.ones(10**tokens.digits)
    cache: dict[tuple[int, ...], np.ndarray] = {}
    for number in range(len(mass)):
        path = digits_of(number, tokens.digits)
        for depth, digit in enumerate(path):
            if path[:depth] not in cache:
                longer = np.concatenate([ids, tokens.ids[list(path[:depth])]])
                cache[path[:depth]] = restricted(model, longer, tokens.ids)
            mass[number] *= cache[path[:depth]][digit]
    return mass


def test_digits_refined_in_full_are_the_brute_force(digit_model: LanguageModel) -> None:
    forecaster = Forecaster(digit_model, digits=2, min_mass=0)
    laws = forecaster.forecast(SERIES)
    for series, law in zip(SERIES, laws, strict=True):
        context = forecaster.format.integers(series, forecaster.format.scale(series))
        assert len(law) == len(series)
        for place in range(len(series)):
            expected = brute_force(digit_model, forecaster, context[: place + 1])
            np.testing.assert_allclose(law.mass[place], expected, atol=1e-6)
    assert forecaster.cost.passes == 2


def test_three_digits_of_the_future_are_the_brute_force(digit_model: LanguageModel) -> None:
    forecaster = Forecaster(digit_model, digits=3, min_mass=0)
    series = SERIES[1]
    law = forecaster.forecast([series])[0]
    context = forecaster.format.integers(series, forecaster.format.scale(series))
    np.testing.assert_allclose(
        law.mass[-1], brute_force(digit_model, forecaster, context), atol=1e-7
    )


@pytest.mark.parametrize("min_mass", [0.1, 2.0])
def test_bins_below_the_mass_stay_uniform(digit_model: LanguageModel, min_mass: float) -> None:
    forecaster = Forecaster(digit_model, digits=2, min_mass=min_mass)
    exact = Forecaster(digit_model, digits=2, min_mass=0)
    law, full = forecaster.forecast(SERIES[:1])[0], exact.forecast(SERIES[:1])[0]
    coarse, whole = (x.mass.reshape(5, 10, 10) for x in (law, full))
    np.testing.assert_allclose(coarse.sum(-1), whole.sum(-1), atol=1e-6)
    scale = forecaster.format.scale(SERIES[0])
    observed = forecaster.format.integers(SERIES[0], scale)[1:] // 10
    for place in range(5):
        for digit in range(10):
            refined = whole[place, digit].sum() >= min_mass
            refined |= place < 4 and observed[place] == digit
            expected = whole[place, digit]
            if not refined:
                expected = np.full(10, expected.sum() / 10)
            np.testing.assert_allclose(coarse[place, digit], expected, atol=1e-6)
    assert forecaster.cost.tokens < exact.cost.tokens


@pytest.mark.parametrize("max_tokens", [1, 10_000])
def test_a_token_per_integer_needs_one_pass(integer_model: LanguageModel, max_tokens: int) -> None:
    forecaster = Forecaster(integer_model, max_tokens=max_tokens)
    laws = forecaster.forecast(SERIES)
    for series, law in zip(SERIES, laws, strict=True):
        context = forecaster.format.integers(series, forecaster.format.scale(series))
        for place in range(len(series)):
            expected = brute_force(integer_model, forecaster, context[: place + 1])
            np.testing.assert_allclose(law.mass[place], expected, atol=1e-6)
    assert forecaster.cost.passes == 2
    assert forecaster.cost.tokens == sum(2 * len(s) + 1 for s in SERIES)


def test_the_grid_is_that_of_the_series(integer_model: LanguageModel) -> None:
    law = Forecaster(integer_model).forecast([SERIES[0]])[0]
    np.testing.assert_allclose(law.centres[[15, 85]], [0.0, 1.0], atol=1e-12)


@pytest.mark.parametrize("how", ["mean", "mode", "sample"])
@pytest.mark.parametrize("kind", ["digit_model", "integer_model"])
def test_continuations_are_forecasts_of_the_longer_series(
    how: str, kind: str, request: pytest.FixtureRequest
) -> None:
    forecaster = Forecaster(request.getfixturevalue(kind), digits=2, min_mass=0)
    values = forecaster.continued(SERIES, 3, how=how, seed=5)  # type: ignore[arg-type]
    assert [v.shape for v in values] == [(1, 3), (1, 3)] and forecaster.cost.passes == 6
    if how == "sample":
        again = forecaster.continued(SERIES, 3, how="sample", seed=5)
        assert all(np.array_equal(a, b) for a, b in zip(values, again, strict=True))
        return
    for series, path in zip(SERIES, values, strict=True):
        scale = forecaster.format.scale(series)  # frozen: the ends are those of the context
        for step in range(3):
            longer = np.concatenate([series, path[0, :step]])
            law = forecaster.forecast([longer], scales=[scale])[0]
            np.testing.assert_allclose(getattr(law, how)[-1], path[0, step], atol=1e-6)


def test_paths_of_a_series_share_their_context(integer_model: LanguageModel) -> None:
    forecaster = Forecaster(integer_model)
    paths = forecaster.continued(SERIES[:1], 1, how="sample", num_paths=50)[0]
    assert paths.shape == (50, 1) and forecaster.cost.tokens < 20
    law = forecaster.forecast(SERIES[:1])[0]
    assert abs(paths.mean() - law.mean[-1]) < 5 * law.std[-1] / np.sqrt(50)


def test_temperature_widens(integer_model: LanguageModel) -> None:
    law = Forecaster(integer_model).forecast(SERIES[:1])[0]
    wide = Forecaster(integer_model, temperature=3.0).forecast(SERIES[:1])[0]
    np.testing.assert_allclose(wide.mass, law.tempered(3.0).mass)


def test_what_cannot_be_forecast_is_refused(integer_model: LanguageModel) -> None:
    forecaster = Forecaster(integer_model)
    assert forecaster.max_values == 255
    with pytest.raises(DataError):
        forecaster.forecast([np.arange(256.0)])
    with pytest.raises(DataError):
        forecaster.forecast([])
    with pytest.raises(ConfigError):
        forecaster.continued(SERIES, 0)
    with pytest.raises(ConfigError):
        forecaster.continued(SERIES, 2, how="mean", num_paths=3)
    with pytest.raises(ConfigError):
        Forecaster(integer_model, temperature=0)
    assert forecaster.format == NumberFormat(2)
