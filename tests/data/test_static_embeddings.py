"""Static embeddings: of length one, near for near texts; a missing package names the extra."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from posttrain.data import static_embeddings
from posttrain.errors import ConfigError


class Doubled:
    """A model whose vectors are (length, 2)."""

    def embed(self, texts: list[str]) -> Any:
        return np.array([[len(t), 2.0 * bool(t)] for t in texts], dtype=np.float32)


def test_vectors_have_length_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_embeddings, "_model", Doubled)
    vectors = static_embeddings.sentence_vectors(["xx", "", "xxxx"])
    assert vectors.dtype == np.float64
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 0, 1])
    assert vectors[0] == pytest.approx(np.array([1, 1]) / np.sqrt(2))


@pytest.mark.skipif(importlib.util.find_spec("wordllama") is not None, reason="it is installed")
def test_a_missing_package_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        static_embeddings.check_installed()
    assert "posttrain[embeddings]" in str(caught.value)


@pytest.mark.skipif(importlib.util.find_spec("wordllama") is None, reason="needs wordllama")
def test_near_texts_are_near() -> None:
    static_embeddings.check_installed()
    cat, kitten, stocks = static_embeddings.sentence_vectors(
        ["The cat chased the mouse.", "A kitten ran after a mouse.", "Stocks fell on Monday."]
    )
    assert cat @ kitten > cat @ stocks
