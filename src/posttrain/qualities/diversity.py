"""How a row stands among the others: how near its neighbours are, how many are like it."""

from __future__ import annotations

import numpy as np

from posttrain.registry import qualities

Array = np.ndarray

_PART = 1024  # rows compared with all others at a time
_ITERATIONS = 10


@qualities.register
def nearest(vectors: Array) -> Array:
    """Cosine similarity to the nearest other row. [R, D] -> [R].

    Costs R^2 D products, in memory of 1024 R numbers.
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    best = np.full(len(vectors), np.nan)
    if len(vectors) < 2:
        return best
    for start in range(0, len(vectors), _PART):
        table = vectors[start : start + _PART] @ vectors.T
        rows = np.arange(len(table))
        table[rows, start + rows] = -np.inf
        best[start : start + _PART] = table.max(axis=1)
    return best


@qualities.register
def cluster_size(vectors: Array, *, num_clusters: int = 0, seed: int = 0) -> Array:
    """Share of the rows in the row's cluster, by spherical k-means. [R, D] -> [R].

    High values are what the data has much of. Clusters begin at rows that k-means++ draws (Arthur
    and Vassilvitskii 2007) and take 10 rounds.

    num_clusters: clusters; 0 takes the square root of the number of rows.
    seed: of the draws.
    """
    labels = clusters(vectors, num_clusters=num_clusters, seed=seed)
    counts = np.bincount(labels) if len(labels) else np.zeros(0)
    return counts[labels] / max(len(labels), 1)


@qualities.register
def k_centre(vectors: Array, *, seed: int = 0) -> Array:
    """Order in which greedy k-centre selects the rows, from 0 for the first to 1 for the last.
    [R, D] -> [R].

        next = argmax_u min_{l selected} d(u, l)

    The k rows of the lowest values cover the data best: no row is farther from them than twice
    the least possible (Gonzalez 1985; CoreSet, Sener and Savarese, arXiv 1708.00489). Costs R^2 D
    products. d is the Euclidean distance; ties go to the earlier row.

    seed: of the first row.
    """
    order = k_centre_order(vectors, len(vectors), seed=seed)
    place = np.empty(len(order))
    place[order] = np.arange(len(order)) / max(len(order) - 1, 1)
    return place


def k_centre_order(vectors: Array, num: int, *, seed: int = 0) -> Array:
    """The first `num` rows that greedy k-centre selects."""
    vectors = np.asarray(vectors, dtype=np.float32)
    num = min(num, len(vectors))
    if not num:
        return np.zeros(0, dtype=np.int64)
    order = [int(np.random.default_rng((seed, 41)).integers(len(vectors)))]
    squares = (vectors**2).sum(axis=1)
    distance = np.full(len(vectors), np.inf, dtype=np.float32)
    while len(order) < num:
        last = order[-1]
        to_last = squares + squares[last] - 2 * (vectors @ vectors[last])
        distance = np.minimum(distance, np.maximum(to_last, 0))
        distance[order] = -1  # a selected row is never selected again, though others equal it
        order.append(int(np.argmax(distance)))
    return np.array(order, dtype=np.int64)


def clusters(vectors: Array, *, num_clusters: int = 0, seed: int = 0) -> Array:
    """The cluster of each row, by spherical k-means. [R, D] -> int64 [R]."""
    vectors = np.asarray(vectors, dtype=np.float32)
    count = min(num_clusters or max(round(len(vectors) ** 0.5), 1), len(vectors))
    if not count:
        return np.zeros(0, dtype=np.int64)
    draw = np.random.default_rng((seed, 43))
    centres = vectors[_drawn_centres(vectors, count, draw)]
    labels = np.zeros(len(vectors), dtype=np.int64)
    for _ in range(_ITERATIONS):
        for start in range(0, len(vectors), _PART):
            table = vectors[start : start + _PART] @ centres.T
            labels[start : start + _PART] = table.argmax(axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, labels, vectors)
        norms = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(norms > 0, sums / np.maximum(norms, 1e-12), centres)
    return labels


def _drawn_centres(vectors: Array, count: int, draw: np.random.Generator) -> list[int]:
    """k-means++: rows far from those drawn are likelier."""
    chosen = [int(draw.integers(len(vectors)))]
    distance = np.full(len(vectors), np.inf)
    while len(chosen) < count:
        near = 1 - vectors @ vectors[chosen[-1]]
        distance = np.minimum(distance, np.maximum(near, 0))
        total = distance.sum()
        if total <= 0:  # fewer different rows than clusters
            break
        chosen.append(int(draw.choice(len(vectors), p=distance / total)))
    return chosen
