"""From scores to chosen places, and distances that selectors share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import ConfigError

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]

TINY = 1e-12


def highest(scores: Any, num: int) -> Places:
    """Places of the `num` highest scores, the highest first; ties in the order of the rows.

    NaN is the lowest score: a row that could not be scored is chosen last.
    """
    values = np.asarray(scores, dtype=np.float64)
    values = np.where(np.isnan(values), -np.inf, values)
    return np.argsort(-values, kind="stable")[:num].astype(np.int64)


def entropy_of(probabilities: Any) -> Numbers:
    """H = -sum_c p_c log p_c over the last axis, in nats; 0 log 0 = 0."""
    p = np.asarray(probabilities, dtype=np.float64)
    return -(p * np.log(np.maximum(p, TINY))).sum(-1)


def farthest_first(
    distances_to: Callable[[int], Numbers], nearest: Numbers, num: int, first: int
) -> Places:
    """Greedy k-centres: argmax_i min_{j chosen} d(i, j), again and again (Gonzalez 1985).

    Args:
        distances_to: of all candidates to one of them, [P].
        nearest: [P], of each candidate to what is labelled already; inf where nothing is.
        first: the candidate that is taken first where nothing is labelled.
    """
    nearest = nearest.copy()
    chosen: list[int] = []
    for _ in range(min(num, len(nearest))):
        place = int(np.argmax(nearest)) if np.isfinite(nearest).all() else first
        chosen.append(place)
        nearest = np.minimum(nearest, distances_to(place))
        nearest[chosen] = -1.0  # never again, however many candidates are alike
    return np.array(chosen, dtype=np.int64)


def squared_distances(points: Any, centre: Any) -> Numbers:
    """||x - c||^2 of points [P, D] to one centre [D]: [P]."""
    difference = np.asarray(points, dtype=np.float64) - np.asarray(centre, dtype=np.float64)
    squares: Numbers = np.einsum("pd,pd->p", difference, difference)
    return squares


def checked_places(name: str, places: Any, num_candidates: int, num: int) -> list[int]:
    """The places that a selector returned, as plain numbers.

    Raises:
        ConfigError: more than were asked for, one twice, or one that is no candidate.
    """
    values = [int(place) for place in np.asarray(places).reshape(-1)]
    if len(values) > num or len(set(values)) < len(values):
        raise ConfigError(
            f"selector {name!r} returned {len(values)} places, {len(set(values))} of them "
            f"distinct; it must return at most {num} distinct ones"
        )
    for value in values:
        if not 0 <= value < num_candidates:
            raise ConfigError(
                f"selector {name!r} returned place {value}; places are 0 to {num_candidates - 1}"
            )
    return values


def checked_pairs(name: str, pairs: Any, num_candidates: int, num: int) -> list[list[int]]:
    """The triples of candidate, better and worse completion that a selector of pairs returned.

    Raises:
        ConfigError: not [n, 3], or a pair of a completion with itself.
    """
    table = np.asarray(pairs, dtype=np.int64)
    if table.ndim != 2 or table.shape[1] != 3:
        raise ConfigError(
            f"selector {name!r} returned shape {table.shape}; one that selects pairs returns "
            "[num, 3]: candidate, better and worse completion"
        )
    if (table[:, 1] == table[:, 2]).any():
        raise ConfigError(f"selector {name!r} paired a completion with itself; it must not")
    checked_places(name, table[:, 0], num_candidates, num)
    return [[int(value) for value in row] for row in table]
