"""Selections of demonstrations: what each promises, and the greedy DPP against brute force."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.incontext.features import TextVectors
from posttrain.incontext.rows import Labelled
from posttrain.incontext.selection import (
    bm25,
    dpp,
    greedy_map,
    k_center,
    nearest,
    places_of,
    random,
)

TEXTS = ["red apple", "red pear", "blue sea", "blue sky", "green tree", "red apple pie"]
POOL = [Labelled(t, "ab"[i % 2], str(i)) for i, t in enumerate(TEXTS)]
VECTORS = TextVectors(TEXTS)


def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def test_random_rows_are_balanced_and_follow_the_seed() -> None:
    pool = [Labelled(str(i), "rare" if i < 3 else "usual") for i in range(40)]
    chosen = random(pool, 6, draw())
    assert Counter(pool[i].label for i in chosen) == {"rare": 3, "usual": 3}
    assert chosen.tolist() == random(pool, 6, draw()).tolist()
    plain = [random(pool, 8, np.random.default_rng(s), balanced=False) for s in range(200)]
    share = np.mean([[pool[i].label == "rare" for i in row] for row in plain])
    assert share == pytest.approx(3 / 40, abs=0.03)


def test_the_nearest_share_words_with_the_question() -> None:
    places = nearest(POOL, ["a red apple", "the sea"], 2, VECTORS)
    assert set(places[0].tolist()) == {0, 5} and places[1][0] == 2


def test_bm25_ranks_as_the_formula() -> None:
    pytest.importorskip("bm25s")
    places = bm25(POOL, ["red pie", "sky"], 3)
    assert places[0][0] == 5 and places[1][0] == 3
    with pytest.raises(ConfigError):
        bm25(POOL, ["red"], 1, b=2.0)


def test_k_center_is_within_twice_the_best_radius() -> None:
    points = np.random.default_rng(3).normal(size=(12, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)

    def radius(chosen: object) -> float:
        return float(distance[:, list(chosen)].min(axis=1).max())  # type: ignore[call-overload]

    best = min(radius(c) for c in itertools.combinations(range(12), 4))
    pool = [Labelled(str(i), "a") for i in range(12)]
    found = k_center(pool, 4, draw(), lambda texts, features: points[[int(t) for t in texts]])
    assert len(set(found.tolist())) == 4
    assert best <= radius(found.tolist()) <= 2 * best


def test_each_greedy_step_has_the_largest_determinant() -> None:
    factor = np.random.default_rng(4).normal(size=(9, 5))
    kernel = factor @ factor.T + 0.1 * np.eye(9)
    chosen = greedy_map(kernel, 5)
    for step in range(5):
        logs = {
            i: np.linalg.slogdet(kernel[np.ix_([*chosen[:step], i], [*chosen[:step], i])])[1]
            for i in range(9)
            if i not in chosen[:step]
        }
        assert chosen[step] == max(logs, key=lambda i: logs[i])
    best = max(
        np.linalg.slogdet(kernel[np.ix_(c, c)])[1] for c in itertools.combinations(range(9), 5)
    )
    found = np.linalg.slogdet(kernel[np.ix_(chosen, chosen)])[1]
    assert best - 0.5 <= found <= best + 1e-9  # nearly the best of all 126 subsets


def test_dpp_takes_no_duplicates_first_and_heeds_relevance() -> None:
    pool = [Labelled("red apple", "a"), Labelled("red apple", "a"), Labelled("blue sea", "b")]
    vectors = TextVectors([row.text for row in pool])
    same = dpp(pool, ["x"], 2, vectors)
    assert same.shape == (2,) and len({pool[i].text for i in same}) == 2
    each = dpp(POOL, ["red apple", "blue sky"], 1, VECTORS, relevance=5.0)
    assert each.shape == (2, 1) and each[1, 0] == 3
    with pytest.raises(ConfigError):
        dpp(POOL, ["x"], 2, VECTORS, relevance=-1.0)


def test_places_of_all_questions_or_of_each() -> None:
    assert places_of([2, 0], 3, 5, 2).tolist() == [[2, 0]] * 3
    assert places_of(np.array([[1], [0]]), 2, 5, 1).tolist() == [[1], [0]]
    for wrong in ([0], [0, 5], [0, 0], [0.5, 1.0], [[0, 1]]):
        with pytest.raises(DataError):
            places_of(wrong, 3, 5, 2)
