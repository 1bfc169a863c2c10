"""Query strategies as they are: an object of the same form, and scikit-activeml itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.selectors import foreign, uncertainty

RNG = np.random.default_rng(0)
POINTS, LABELLED = RNG.normal(size=(10, 3)), RNG.normal(size=(4, 3))
P, BEFORE = RNG.dirichlet(np.ones(2), size=10), RNG.dirichlet(np.ones(2), size=4)
CLASSES = np.array([0.0, 1.0, 0.0, 1.0])
INPUTS = (POINTS, LABELLED, P, BEFORE, CLASSES)


class Fixed:
    """As a query strategy of scikit-activeml: labels that are missing are NaN."""

    def query(self, X: Any, y: Any, candidates: Any = None, batch_size: int = 1) -> Any:
        assert np.array_equal(X, np.concatenate([LABELLED, POINTS]))
        assert np.array_equal(y[:4], CLASSES) and np.isnan(y[4:]).all() and len(y) == 14
        assert candidates.tolist() == list(range(4, 14))
        return candidates[-batch_size:][::-1]


def test_an_object_with_a_query_is_a_selector() -> None:
    assert foreign.is_strategy(Fixed()) and not foreign.is_strategy(Fixed)
    assert not foreign.is_strategy(uncertainty.entropy)
    selector = foreign.as_selector(Fixed())
    assert selector(*INPUTS, 3).tolist() == [9, 8, 7] and selector.__name__ == "Fixed"
    assert selector(*INPUTS, 99).tolist() == list(range(9, -1, -1))


def test_an_argument_that_is_not_known_is_refused() -> None:
    class Greedy:
        def query(self, X: Any, y: Any, ensemble: Any, candidates: Any, batch_size: int) -> Any:
            return candidates

    with pytest.raises(ConfigError):
        foreign.as_selector(Greedy())(*INPUTS, 3)


def test_scikit_activeml_agrees_with_our_own() -> None:
    pool = pytest.importorskip("skactiveml.pool")
    theirs = foreign.as_selector(pool.UncertaintySampling(method="entropy"))(*INPUTS, 4)
    assert theirs.tolist() == uncertainty.entropy(P, 4).tolist()
    named = foreign.scikit_activeml(*INPUTS, 4, RNG, strategy="UncertaintySampling")
    assert named.tolist() == uncertainty.least_confidence(P, 4).tolist()
    with pytest.raises(ConfigError):
        foreign.scikit_activeml(*INPUTS, 4, RNG, strategy="Nothing")
