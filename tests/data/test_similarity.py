"""Nearness of domains: word weights and orders worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.data import similarity
from posttrain.data.similarity import (
    domain_vectors,
    keywords,
    mean_step,
    nearest_first,
    swapped_halves,
    word_weights,
)

SAMPLES = {
    "cooking": ["salt salt the pan", "the oven"],
    "baking": ["the oven flour", "flour flour"],
    "law": ["the court ruled", "court court"],
}


def test_word_weights_by_hand() -> None:
    """Of 3 domains "the" is in 3, "oven" in 2, "salt" in 1."""
    cooking = word_weights(SAMPLES)[0]
    assert cooking["the"] == pytest.approx(1 + math.log(2))
    assert cooking["oven"] == pytest.approx(1 + math.log(4 / 3))
    assert cooking["salt"] == pytest.approx((1 + math.log(2)) * (1 + math.log(4 / 2)))


def test_vectors_are_of_length_one_and_near_where_words_are_shared() -> None:
    vectors = domain_vectors(SAMPLES, "words")
    near = vectors @ vectors.T
    assert np.diag(near) == pytest.approx(1)
    assert near[0, 1] > near[0, 2] > 0


def test_static_embeddings_are_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        similarity, "sentence_vectors", lambda texts: np.array([[len(t), 1.0] for t in texts])
    )
    vectors = domain_vectors({"a": ["xx", "xxxx"], "b": ["x"]}, "embeddings")
    assert vectors[0] == pytest.approx(np.array([3, 1]) / math.sqrt(10))
    assert vectors[1] == pytest.approx(np.array([1, 1]) / math.sqrt(2))


def test_the_nearest_comes_next() -> None:
    """Directions of 0, 80, 10 and 45 degrees from the first."""
    angles = np.radians([0, 80, 10, 45])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert nearest_first(vectors, 0) == [0, 2, 3, 1]
    assert nearest_first(vectors, 1) == [1, 3, 2, 0]
    assert mean_step(vectors, [0, 2, 3, 1]) > mean_step(vectors, [0, 1, 2, 3])
    assert mean_step(vectors, [0, 2]) == pytest.approx(math.cos(math.radians(10)))


def test_halves_are_swapped() -> None:
    assert swapped_halves([4, 3, 2, 1]) == [2, 1, 4, 3]
    assert swapped_halves([1, 2, 3]) == [3, 1, 2]


def test_keywords_set_a_domain_apart() -> None:
    samples = {"a": ["the sea sea sea the the boat"], "b": ["the the the law law law law"]}
    assert keywords(samples, 5) == {"a": ["sea"], "b": ["law"]}
