"""Inputs of selectors of classes, after one training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from posttrain import registry
from posttrain.errors import ConfigError, DataError
from posttrain.learners.classes import ClassLearner
from posttrain.models.loaded import LoadedModel
from posttrain.models.spec import model_spec
from posttrain.selectors.ranking import checked_places

ROWS = [{"id": str(i), "text": f"{'ab'[i % 2]} {i}", "label": "ab"[i % 2]} for i in range(8)]


def test_every_input_and_every_selector(tiny_folder: Path) -> None:
    learner = ClassLearner(
        model_spec(str(tiny_folder)), ROWS[6:], ROWS, training={"steps": 1}, num_members=3
    )
    untrained = learner.inputs(["probabilities", "labelled_embeddings"], ROWS[:3], [], 0)
    assert untrained["probabilities"] == pytest.approx(0.5)
    assert untrained["labelled_embeddings"].shape == (0, 32)
    learner.train(ROWS[:4], 0)
    made = learner.inputs(sorted(learner.carries), ROWS[:6], ROWS[4:], 0)
    assert set(made) == learner.carries and made["committee"].shape == (3, 6, 2)
    assert made["labelled_classes"].tolist() == [0, 1, 0, 1]
    given = {**made, "num": 3, "rng": np.random.default_rng(0), "num_candidates": 6}
    tried = 0
    for name, entry in registry.selectors.entries().items():
        if name != "scikit_activeml" and set(entry.inputs) <= given.keys():
            places = registry.selectors.get(name)(*(given[key] for key in entry.inputs))
            assert len(checked_places(name, places, 6, 3)) == 3, name
            tried += 1
    assert tried == 11
    assert len(learner.outcomes()) == 2 and learner.embed(ROWS[:2]).shape == (2, 32)
    labels, confidences = learner.predict(ROWS[:2]) or ([], [])
    assert set(labels) <= {"a", "b"} and all(0.5 <= c <= 1 for c in confidences)
    learner.restart()
    assert learner.inputs(["probabilities"], ROWS[:3], [], 0)["probabilities"] == pytest.approx(0.5)


def test_what_is_refused(tiny_folder: Path) -> None:
    spec = model_spec(str(tiny_folder))
    with pytest.raises(DataError):
        ClassLearner(spec, [], ROWS)
    with pytest.raises(DataError):
        ClassLearner(spec, [{"text": "x", "label": "sky"}], ROWS, labels=("a", "b")).check(ROWS)
    with pytest.raises(ConfigError):
        ClassLearner(LoadedModel(spec.load()), ROWS, ROWS)
