"""Diverse selections against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.selectors import diversity as d


def test_coreset_takes_the_row_farthest_from_what_is_labelled() -> None:
    points = np.array([[0.0], [1.0], [5.0], [9.0]])
    rng = np.random.default_rng(0)
    assert d.coreset(points, [[0.0]], 2, rng).tolist() == [3, 2]  # 9 from 0; then 4 beats 1
    assert len(set(d.coreset(points, np.zeros((0, 1)), 4, rng).tolist())) == 4


def test_contextual_divergence_is_the_symmetric_divergence() -> None:
    p, q = np.array([0.7, 0.3]), np.array([0.2, 0.8])
    by_hand = (np.sum(p * np.log(p / q)) + np.sum(q * np.log(q / p))) / 2
    assert d._divergence(p[None], q) == pytest.approx([by_hand])
    chosen = d.cdal([[0.5, 0.5], [0.99, 0.01], [0.52, 0.48]], [[0.5, 0.5]], 2, generator())
    assert chosen.tolist() == [1, 2]


def generator() -> np.random.Generator:
    return np.random.default_rng(1)


def gradient_embeddings(p: np.ndarray, h: np.ndarray) -> np.ndarray:
    a = p - np.eye(p.shape[1])[p.argmax(1)]
    return np.stack([np.outer(x, y).ravel() for x, y in zip(a, h, strict=True)])


def test_badge_equals_means_plus_plus_over_whole_gradients() -> None:
    rng = np.random.default_rng(2)
    p, h = rng.dirichlet(np.ones(4), size=30), rng.normal(size=(30, 5))
    g = gradient_embeddings(p, h)
    draw = np.random.default_rng(7)
    chosen = [int((g**2).sum(1).argmax())]
    while len(chosen) < 6:
        near = np.min([((g - g[c]) ** 2).sum(1) for c in chosen], axis=0)
        near[chosen] = 0
        chosen.append(int(draw.choice(30, p=near / near.sum())))
    assert d.badge(p, h, 6, np.random.default_rng(7)).tolist() == chosen


def test_badge_of_a_pool_without_gradients_takes_different_rows() -> None:
    p = np.tile([[1.0, 0.0]], (5, 1))
    assert len(set(d.badge(p, np.ones((5, 2)), 5, np.random.default_rng(0)).tolist())) == 5


def test_kmeans_takes_one_row_of_each_cluster() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    points = np.concatenate([c + rng.normal(size=(10, 2)) for c in centres])
    chosen = d.kmeans(points, 3, rng)
    assert sorted(place // 10 for place in chosen.tolist()) == [0, 1, 2]
