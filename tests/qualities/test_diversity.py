"""Neighbours, clusters and coverage, against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from posttrain.qualities.diversity import cluster_size, clusters, k_centre, k_centre_order, nearest


def directions(num: int, size: int = 8, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(num, size))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_nearest_is_the_best_of_all_others() -> None:
    vectors = directions(40)
    table = vectors @ vectors.T
    np.fill_diagonal(table, -1)
    assert nearest(vectors) == pytest.approx(table.max(axis=1), abs=1e-6)
    assert np.isnan(nearest(vectors[:1])).all()


def test_rows_of_one_kind_share_a_cluster() -> None:
    centres = directions(3, 16)
    vectors = np.concatenate([np.repeat(centres[i : i + 1], n, axis=0) for i, n in
                              enumerate((10, 5, 1))])  # fmt: skip
    vectors += np.random.default_rng(1).normal(scale=0.01, size=vectors.shape)
    labels = clusters(vectors, num_clusters=3)
    assert len(set(labels[:10])) == len(set(labels[10:15])) == 1 and len(set(labels)) == 3
    sizes = cluster_size(vectors, num_clusters=3)
    assert sizes.tolist() == pytest.approx([10 / 16] * 10 + [5 / 16] * 5 + [1 / 16])


def test_k_centre_covers_within_twice_the_best() -> None:
    """Gonzalez's bound, against every choice of 3 of 12 rows."""
    vectors = directions(12, 3, seed=5)
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    best = min(
        distances[:, list(c)].min(axis=1).max() for c in itertools.combinations(range(12), 3)
    )
    for seed in range(4):
        chosen = k_centre_order(vectors, 3, seed=seed)
        assert distances[:, chosen].min(axis=1).max() <= 2 * best + 1e-6


def test_k_centre_orders_every_row_once_and_equal_rows_last() -> None:
    vectors = np.concatenate([directions(5), directions(5)])
    assert sorted(k_centre_order(vectors, 10).tolist()) == list(range(10))
    values = k_centre(vectors)
    assert sorted(values.tolist()) == pytest.approx([i / 9 for i in range(10)])
    first = {int(i) % 5 for i in np.argsort(values)[:5]}
    assert first == set(range(5))


@pytest.mark.parametrize("measure", [nearest, cluster_size, k_centre])
def test_no_rows(measure) -> None:
    assert len(measure(np.zeros((0, 4)))) == 0


def test_fewer_different_rows_than_clusters() -> None:
    labels = clusters(np.repeat(directions(2), 5, axis=0), num_clusters=6)
    assert len(set(labels[:5])) == len(set(labels[5:])) == 1
