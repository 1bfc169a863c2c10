"""Maps and their inverses."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.dynamics.feature_maps import fit_map
from posttrain.errors import ConfigError, DataError

DRAW = np.random.default_rng(0)
SOURCES = DRAW.standard_normal((80, 2))
MIXED = SOURCES @ DRAW.standard_normal((2, 4)) + 3


@pytest.mark.parametrize("kind", ["identity", "pca"])
def test_all_components_give_the_features_back(kind: str) -> None:
    fitted = fit_map(MIXED, kind)  # type: ignore[arg-type]
    assert fitted.encode(MIXED).shape == (80, 4)
    np.testing.assert_allclose(fitted.decode(fitted.encode(MIXED)), MIXED, atol=1e-10)


def test_two_components_of_two_mixed_sources_suffice() -> None:
    fitted = fit_map(MIXED, "pca", 2)
    components = fitted.encode(MIXED)
    np.testing.assert_allclose(fitted.decode(components), MIXED, atol=1e-8)
    covariance = np.cov(components.T)
    np.testing.assert_allclose(covariance[0, 1], 0, atol=1e-10)  # they are uncorrelated
    assert covariance[0, 0] >= covariance[1, 1]


def test_an_autoencoder_learns_its_context_and_repeats() -> None:
    one, two = (fit_map(MIXED, "autoencoder", 2, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.encode(MIXED), two.encode(MIXED))
    error = ((one.decode(one.encode(MIXED)) - MIXED) ** 2).mean()
    assert error < 0.1 * MIXED.var(0).mean()


def test_a_constant_feature_stays() -> None:
    features = np.concatenate([MIXED, np.full((80, 1), 7.0)], 1)
    fitted = fit_map(features, "pca", 3)
    np.testing.assert_allclose(fitted.decode(fitted.encode(features))[:, -1], 7.0, atol=1e-10)


def test_what_cannot_be_fitted_is_refused() -> None:
    for kind, count in (("identity", 2), ("pca", 5), ("pca", 0), ("lda", 2)):
        with pytest.raises(ConfigError):
            fit_map(MIXED, kind, count)  # type: ignore[arg-type]
    for features in (MIXED[:2], MIXED[:, 0]):
        with pytest.raises(DataError):
            fit_map(features, "pca")
