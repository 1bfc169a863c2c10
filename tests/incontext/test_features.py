"""Vectors of texts by words and by hidden states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from posttrain.errors import ConfigError
from posttrain.incontext.features import TextVectors, WordWeights, hidden_vectors
from posttrain.models.load import load_model

TEXTS = ["red apple", "red red pear", "blue sea"]


def test_weights_of_words_by_hand() -> None:
    weights = WordWeights(TEXTS).vectors(["red red pear", "unseen"])
    names = ["red", "apple", "blue", "pear", "sea"]  # by frequency, then by the alphabet
    red = (1 + np.log(2)) * (1 + np.log(4 / 3))
    pear = 1 + np.log(4 / 2)
    assert weights[0].tolist() == pytest.approx([red, 0, 0, pear, 0]) and len(names) == 5
    assert not weights[1].any()


def test_vectors_have_length_one_and_are_computed_once() -> None:
    vectors = TextVectors(TEXTS)
    found = vectors([*TEXTS, TEXTS[0], ""], "words")
    assert np.linalg.norm(found, axis=1).tolist() == pytest.approx([1, 1, 1, 1, 0])
    assert (found[0] == found[3]).all()


def test_hidden_states_are_the_mean_over_tokens(tiny_folder: Any) -> None:
    model = load_model(str(tiny_folder), dtype="float32", device="cpu")
    texts = ["ab", "a longer text", ""]
    found = hidden_vectors(model, texts, max_tokens=8)
    ids = torch.tensor([model.tokenizer(texts[1])["input_ids"]])
    with torch.no_grad():
        states = model.hf.model(ids).last_hidden_state[0, 1:]
    np.testing.assert_allclose(found[1], states.mean(0).numpy(), atol=1e-5)
    assert np.isfinite(found).all()
    assert TextVectors(texts, lambda: model)(texts, "hidden").shape == (3, 32)


def test_unknown_features_and_a_server_are_refused() -> None:
    with pytest.raises(ConfigError, match="wordz"):
        TextVectors(TEXTS)(TEXTS, "wordz")
    with pytest.raises(ConfigError, match="server"):
        TextVectors(TEXTS)(TEXTS, "hidden")


def test_static_embeddings() -> None:
    pytest.importorskip("wordllama")
    a, b, c = TextVectors(TEXTS)(
        ["a cat sleeps", "the kitten naps", "stock prices fell"], "embeddings"
    )
    assert a @ b > a @ c
