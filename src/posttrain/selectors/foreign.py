"""Query strategies of scikit-activeml, as they are.

A strategy is an object with `query(X, y, candidates=..., batch_size=...)`: X the vectors of rows
that are labelled and of candidates, y their classes with NaN where there is no label. Strategies
that ask for a classifier (`clf`) get one that gives the probabilities of the model in hand.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from posttrain.errors import ConfigError, MissingDependency, nearest
from posttrain.registry import selectors
from posttrain.selectors.ranking import Places

PACKAGE = "scikit-activeml"


@selectors.register
def scikit_activeml(
    embeddings: Any,
    labelled_embeddings: Any,
    probabilities: Any,
    labelled_probabilities: Any,
    labelled_classes: Any,
    num: int,
    rng: Any,
    *,
    strategy: str = "UncertaintySampling",
) -> Places:
    """A query strategy of `skactiveml.pool` by the name of its class, with its own defaults.

    In Python a strategy is given as it is: selector=skactiveml.pool.Badge(random_state=0).

    strategy: name of the class, such as UncertaintySampling, Badge, CoreSet or ProbCover.
    """
    made = _strategy(strategy, int(rng.integers(2**31)))
    return queried(
        made,
        embeddings,
        labelled_embeddings,
        probabilities,
        labelled_probabilities,
        labelled_classes,
        num,
    )


def is_strategy(value: Any) -> bool:
    """Whether a value is a query strategy: an object with a method `query`."""
    return not isinstance(value, type) and callable(getattr(value, "query", None))


def as_selector(strategy: Any) -> Callable[..., Places]:
    """A selector that asks a query strategy."""

    def query(
        embeddings: Any,
        labelled_embeddings: Any,
        probabilities: Any,
        labelled_probabilities: Any,
        labelled_classes: Any,
        num: int,
    ) -> Places:
        return queried(
            strategy,
            embeddings,
            labelled_embeddings,
            probabilities,
            labelled_probabilities,
            labelled_classes,
            num,
        )

    query.__name__ = type(strategy).__name__
    return query


def queried(
    strategy: Any,
    embeddings: Any,
    labelled_embeddings: Any,
    probabilities: Any,
    labelled_probabilities: Any,
    labelled_classes: Any,
    num: int,
) -> Places:
    """The places that a strategy chooses among the candidates.

    Raises:
        ConfigError: it needs an argument that is not known here.
    """
    points = np.asarray(embeddings, dtype=np.float64)
    labelled = np.asarray(labelled_embeddings, dtype=np.float64).reshape(-1, points.shape[1])
    p = np.asarray(probabilities, dtype=np.float64)
    before = np.asarray(labelled_probabilities, dtype=np.float64).reshape(-1, p.shape[1])
    rows = np.concatenate([labelled, points])
    classes = np.concatenate([labelled_classes, np.full(len(points), np.nan)])
    arguments: dict[str, Any] = {}
    known = {"X", "y", "candidates", "batch_size", "clf", "fit_clf"}
    for name, parameter in inspect.signature(strategy.query).parameters.items():
        if name == "clf":
            arguments |= {"clf": _classifier(rows, np.concatenate([before, p])), "fit_clf": False}
        elif parameter.default is parameter.empty and name not in known:
            raise ConfigError(
                f"selector {type(strategy).__name__}: its query needs {name!r}, which is not given "
                "here; write a selector that calls it with one"
            )
    places = strategy.query(
        rows,
        classes,
        candidates=np.arange(len(labelled), len(rows)),
        batch_size=min(num, len(points)),
        **arguments,
    )
    return np.asarray(places, dtype=np.int64) - len(labelled)


def _strategy(name: str, seed: int) -> Any:
    try:
        from skactiveml import pool
    except ImportError as error:
        raise MissingDependency(PACKAGE, "active") from error
    if not hasattr(pool, name):
        raise ConfigError(f"scikit_activeml: strategy {name!r}: {nearest(name, pool.__all__)}")
    return getattr(pool, name)(random_state=seed)


def _classifier(rows: Any, probabilities: Any) -> Any:
    """A classifier of scikit-activeml that knows the probabilities of these rows."""
    try:
        from skactiveml.base import SkactivemlClassifier
    except ImportError as error:
        raise MissingDependency(PACKAGE, "active") from error
    table = {row.tobytes(): p for row, p in zip(rows, probabilities, strict=True)}

    class Measured(SkactivemlClassifier):
        def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
            return self

        def predict_proba(self, X: Any) -> Any:
            return np.array([table[row.tobytes()] for row in np.ascontiguousarray(X)])

    measured = Measured(classes=list(range(probabilities.shape[1])))
    measured.classes_ = np.arange(probabilities.shape[1])
    return measured
