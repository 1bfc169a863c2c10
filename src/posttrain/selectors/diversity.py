"""Rows that differ: from each other, and from what is labelled already."""

from __future__ import annotations

from typing import Any

import numpy as np

from posttrain.registry import selectors
from posttrain.selectors.ranking import (
    TINY,
    Numbers,
    Places,
    farthest_first,
    squared_distances,
)


@selectors.register
def coreset(embeddings: Any, labelled_embeddings: Any, num: int, rng: Any) -> Places:
    """CoreSet, k-centre greedy: argmax_u min_l ||h_u - h_l|| (arXiv 1708.00489, algorithm 1).

    With nothing labelled the first row is drawn at random.
    """
    points = np.asarray(embeddings, dtype=np.float64)
    labelled = np.asarray(labelled_embeddings, dtype=np.float64).reshape(-1, points.shape[1])
    nearest = np.full(len(points), np.inf)
    for row in labelled:
        nearest = np.minimum(nearest, squared_distances(points, row))
    return farthest_first(
        lambda place: squared_distances(points, points[place]),
        nearest,
        num,
        int(rng.integers(len(points))),
    )


@selectors.register
def cdal(probabilities: Any, labelled_probabilities: Any, num: int, rng: Any) -> Places:
    """CDAL-CS: k-centre greedy in contextual diversity, d(i, j) = KL(p_i || p_j) / 2 +
    KL(p_j || p_i) / 2 of predicted classes (arXiv 2008.05723).

    The paper mixes the predictions of the regions of an image; a text has one prediction.
    """
    points = np.maximum(np.asarray(probabilities, dtype=np.float64), TINY)
    labelled = np.asarray(labelled_probabilities, dtype=np.float64).reshape(-1, points.shape[1])
    nearest = np.full(len(points), np.inf)
    for row in labelled:
        nearest = np.minimum(nearest, _divergence(points, np.maximum(row, TINY)))
    return farthest_first(
        lambda place: _divergence(points, points[place]),
        nearest,
        num,
        int(rng.integers(len(points))),
    )


def _divergence(points: Numbers, centre: Numbers) -> Numbers:
    """(KL(p || c) + KL(c || p)) / 2 = sum (p - c)(log p - log c) / 2 of each row p: [P]."""
    values: Numbers = ((points - centre) * (np.log(points) - np.log(centre))).sum(1) / 2
    return values


@selectors.register
def badge(probabilities: Any, embeddings: Any, num: int, rng: Any) -> Places:
    """BADGE: k-means++ over gradient embeddings g = (p - e_yhat) x h (arXiv 1906.03671).

    g [C D] is the gradient of the cross-entropy by the last layer, with the model's own prediction
    yhat as the label. The first centre is the longest g, each next one is drawn with probability
    proportional to its squared distance from the nearest centre. Products of g factor, <g, g'> =
    <a, a'> <h, h'> with a = p - e_yhat, so that no g is formed.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    h = np.asarray(embeddings, dtype=np.float64)
    a = p - np.eye(p.shape[1])[p.argmax(1)]
    squares: Numbers = (a * a).sum(1) * (h * h).sum(1)
    chosen = [int(squares.argmax())]
    nearest = np.full(len(p), np.inf)
    while len(chosen) < min(num, len(p)):
        last = chosen[-1]
        products = (a @ a[last]) * (h @ h[last])
        distances = np.maximum(squares + squares[last] - 2 * products, 0)
        nearest = np.minimum(nearest, distances)
        nearest[chosen] = 0
        chosen.append(_drawn(nearest, chosen, rng))
    return np.array(chosen[:num], dtype=np.int64)


def _drawn(weights: Numbers, chosen: list[int], rng: Any) -> int:
    """A place by its weight; where all weights are 0, any that is not chosen."""
    if weights.sum() <= 0:
        weights = np.ones(len(weights))
        weights[chosen] = 0
    return int(rng.choice(len(weights), p=weights / weights.sum()))


@selectors.register
def kmeans(embeddings: Any, num: int, rng: Any, *, num_iterations: int = 10) -> Places:
    """The row nearest to each of `num` k-means centres: typical and different rows, for a cold
    start (Zhdanov 2019, arXiv 1901.05954; Yuan et al. 2020, arXiv 2010.09535 cluster likewise).

    num_iterations: of Lloyd's algorithm, from k-means++ centres.
    """
    points = np.asarray(embeddings, dtype=np.float64)
    num = min(num, len(points))
    centres = points[seeded(points, num, rng)]
    for _ in range(num_iterations):
        nearest = nearest_centre(points, centres)
        for place in range(num):
            if (nearest == place).any():
                centres[place] = points[nearest == place].mean(0)
    chosen: list[int] = []
    for centre in centres:
        distances = squared_distances(points, centre)
        distances[chosen] = np.inf
        chosen.append(int(distances.argmin()))
    return np.array(chosen, dtype=np.int64)


def seeded(points: Numbers, num: int, rng: Any) -> list[int]:
    """Centres drawn by k-means++: places of `num` rows (Arthur and Vassilvitskii 2007)."""
    chosen = [int(rng.integers(len(points)))]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < num:
        nearest = np.minimum(nearest, squared_distances(points, points[chosen[-1]]))
        nearest[chosen] = 0
        chosen.append(_drawn(nearest, chosen, rng))
    return chosen


def nearest_centre(points: Numbers, centres: Numbers) -> Any:
    """The place of the nearest centre of each row: [P]."""
    squares = (centres * centres).sum(1) - 2 * points @ centres.T
    return squares.argmin(1)
