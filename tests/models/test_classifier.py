"""Pooled hidden states and logits against plain passes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from posttrain.models.class_head import Classes
from posttrain.models.classifier import Classifier
from posttrain.models.load import load_score_model


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_logits_are_those_of_a_plain_pass(
    tiny_folder: Path, pooling: Literal["mean", "last"]
) -> None:
    classes = Classes(("x", "y", "z"), pooling)
    model = load_score_model(tiny_folder, per=classes, dtype="float32")
    assert isinstance(model, Classifier)
    with torch.no_grad():
        torch.manual_seed(1)
        model.score_head.weight.normal_()
    texts = ["one text", "another, longer text", "b"]
    said = model.predict(texts)
    for place, text in enumerate(texts):
        ids = torch.tensor(model._sequence(text, 64).ids)[None]
        with torch.no_grad():
            hidden = model.base(input_ids=ids).last_hidden_state[0]
            pooled = hidden[1:].mean(0) if pooling == "mean" else hidden[-1]
            logits = model.score_head(pooled)
        assert said.embeddings[place] == pytest.approx(pooled.numpy(), abs=1e-4)
        assert said.probabilities[place] == pytest.approx(logits.softmax(0).numpy(), abs=1e-4)


def test_no_texts(tiny_folder: Path) -> None:
    model = load_score_model(tiny_folder, per=Classes(("x", "y")))
    assert isinstance(model, Classifier)
    assert model.predict([]).probabilities.shape == (0, 2)
    assert model.committee([], num_members=3).shape == (3, 0, 2)
    assert np.allclose(model.predict(["a"]).confidences, 0.5)
