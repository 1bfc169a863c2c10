"""A classifier learns, is saved and loaded, resumes, and says what it cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import posttrain as pt
from posttrain.errors import ConfigError, DataError
from posttrain.methods.classifier import accuracy
from posttrain.models.class_head import Classes
from posttrain.models.classifier import Classifier
from posttrain.models.load import load_score_model

QUICK: dict[str, Any] = {"learning_rate": 3e-3, "batch_size": 8}


def rows(num: int, seed: int = 0) -> list[dict[str, str]]:
    draw = np.random.default_rng(seed)
    words = {"fruit": ["apple", "plum", "pear"], "tool": ["saw", "drill", "axe"]}
    made = []
    for number in range(num):
        label = ("fruit", "tool")[number % 2]
        made.append({"text": f"a {draw.choice(words[label])} here", "label": label})
    return made


def test_it_learns_and_predicts(tiny_folder: Path) -> None:
    result = pt.fit(
        str(tiny_folder), pt.classifier(rows(32), eval_data=rows(20, 1), **QUICK), steps=25
    )
    model = result.model
    assert isinstance(model, Classifier) and model.labels == ("fruit", "tool")
    assert result.metrics[0]["eval_loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert result.metrics[-1]["eval_loss"] < 0.35
    assert np.mean(accuracy(model, rows(20, 2))) > 0.9
    texts = ["an axe", "a pear in a tree", "a"]
    said = model.predict(texts)
    assert said.probabilities.sum(1) == pytest.approx(1) and said.embeddings.shape == (3, 32)
    for place, text in enumerate(texts):  # the order of rows, however they are packed
        assert model.predict([text]).probabilities[0] == pytest.approx(
            said.probabilities[place], abs=1e-5
        )
    assert said.predicted == [model.labels[i] for i in said.probabilities.argmax(1)]


def test_a_committee_is_of_sets_of_weights(tiny_folder: Path) -> None:
    model = pt.fit(str(tiny_folder), pt.classifier(rows(16), **QUICK), steps=8).model
    members = model.committee(["a saw", "a saw", "a plum"], num_members=4, seed=1)
    assert members.shape == (4, 3, 2) and members.sum(2) == pytest.approx(1)
    assert members[:, 0] == pytest.approx(members[:, 1], abs=1e-6)  # the same weights for both
    assert np.ptp(members[:, 0, 0]) > 0
    again = model.committee(["a saw", "a saw", "a plum"], num_members=4, seed=1)
    assert np.array_equal(members, again)


def test_saved_and_loaded(tiny_folder: Path, tmp_path: Path) -> None:
    plan = pt.classifier(rows(16), pooling="last", dropout=0.0, **QUICK)
    model = pt.fit(str(tiny_folder), plan, steps=4).model
    model.save(tmp_path / "model")
    classes = Classes(("fruit", "tool"), "last", 0.0)
    loaded = load_score_model(tmp_path / "model", per=classes)
    assert isinstance(loaded, Classifier) and loaded.classes == classes
    said = model.predict(["a drill"])
    assert np.array_equal(loaded.predict(["a drill"]).probabilities, said.probabilities)

    from transformers import AutoModelForSequenceClassification

    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    sequence = model._sequence("a drill", 64)
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor(sequence.ids)[None]).logits
    assert logits.softmax(-1)[0].numpy() == pytest.approx(said.probabilities[0], abs=1e-5)


def test_an_interrupted_fit_goes_on_exactly(tiny_folder: Path, tmp_path: Path) -> None:
    plan = pt.classifier(rows(16), **QUICK)
    whole = pt.fit(str(tiny_folder), plan, steps=6, output=tmp_path / "whole").model
    pt.fit(str(tiny_folder), plan, steps=6, output=tmp_path / "half", save_every=3)
    import shutil

    shutil.rmtree(tmp_path / "half" / "checkpoint-6", ignore_errors=True)
    shutil.rmtree(tmp_path / "half" / "model")
    resumed = pt.fit(
        str(tiny_folder), plan, steps=6, output=tmp_path / "half", resume=True, save_every=3
    ).model
    for a, b in zip(whole.hf.parameters(), resumed.hf.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError):
        pt.classifier([{"text": "a", "label": "one"}])
    with pytest.raises(ConfigError):
        pt.classifier(rows(4), dropout=1.0)
    plan = pt.classifier([*rows(4), {"text": "x", "label": "sky"}], labels=("fruit", "tool"))
    with pytest.raises(DataError):
        pt.fit(str(tiny_folder), plan, steps=1)
    model = pt.fit(str(tiny_folder), pt.classifier(rows(4)), steps=1).model
    with pytest.raises(ConfigError):
        pt.fit(model, pt.classifier(rows(4), labels=("fruit", "tool", "toy")), steps=1)
    assert pt.fit(model, pt.classifier(rows(4)), steps=1).model is model
