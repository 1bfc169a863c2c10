"""Embeddings of rows."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.curation.row_vectors import check_embeddings, row_vectors
from posttrain.errors import ConfigError


def test_rows_that_share_rare_words_are_near() -> None:
    texts = ["the cat sleeps", "the cat sleeps now", "the rocket starts", "the stock falls", ""]
    vectors = row_vectors(texts)
    assert vectors.shape == (5, 256)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1, 1, 0])
    near = vectors @ vectors.T
    assert near[0, 1] > 0.6 and abs(near[0, 2]) < 0.4 and abs(near[2, 3]) < 0.4
    assert row_vectors([]).shape == (0, 256)


def test_a_row_has_one_vector_in_any_part(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"w{i} common w{i % 3}" for i in range(20)]
    whole = row_vectors(texts)
    monkeypatch.setattr("posttrain.curation.row_vectors._PART", 7)
    assert row_vectors(texts) == pytest.approx(whole, abs=1e-6)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError):
        check_embeddings("dense")
