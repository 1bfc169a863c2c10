"""Learn the classes of texts: a classifier that is trained anew in each round."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from posttrain.data.labelled_texts import labels_of, texts_of
from posttrain.data.rows import rows_of
from posttrain.errors import ConfigError, DataError
from posttrain.labellers.base import Row
from posttrain.learners.base import Learner
from posttrain.methods.classifier import accuracy, classifier
from posttrain.methods.fit import fit
from posttrain.methods.objects import Rows, data_of
from posttrain.models.classifier import Classifier, Predictions
from posttrain.models.named import NamedModel
from posttrain.models.spec import ModelSpec

OF_FIT = ("steps", "max_grad_norm", "weight_decay", "warmup_steps", "max_tokens_per_micro_batch")
"""Settings of a round's training that are those of `fit`; the others are of the method."""


class ClassLearner(Learner):
    """Rows of text and label.

    Args:
        spec: a folder or hub id; each round begins at its weights.
        eval_data: held-out rows. labels: classes; None are those of the pool's gold and of
            eval_data.
        training: settings of `pt.classifier`, and steps.
        num_members: of the committee under dropout.
    """

    column = "label"
    carries = frozenset(
        {
            "probabilities",
            "labelled_probabilities",
            "labelled_classes",
            "committee",
            "embeddings",
            "labelled_embeddings",
        }
    )

    def __init__(
        self,
        spec: ModelSpec,
        eval_data: Rows,
        pool: Sequence[Row],
        *,
        labels: Sequence[str] | None = None,
        training: Mapping[str, Any] | None = None,
        num_members: int = 8,
        max_length: int | None = None,
    ) -> None:
        if not isinstance(spec, NamedModel):
            raise ConfigError(
                "model: each round begins at the weights of the start, so active learning of "
                "classes takes a folder or hub id, and not a model in memory"
            )
        self.spec = spec
        self.held_out = rows_of(data_of(eval_data))
        if not self.held_out:
            raise DataError("eval_data: there are no rows; held-out rows draw the curve")
        self.labels = tuple(labels or labels_of([*pool, *self.held_out]))
        self.max_length = max_length
        self.training = dict(training or {})
        self.steps = self.training.get("steps")
        self.num_members = num_members
        self.model: Classifier | None = None
        self._console = Console(quiet=True)
        self._plan([{"text": "a", "label": name} for name in self.labels])  # checks the settings

    def check(self, pool: Sequence[Row]) -> None:
        """Refuse rows without a text, and held-out rows of another class."""
        texts_of(pool)
        texts_of(self.held_out, "eval_data")
        for row in self.held_out:
            if str(row.get("label")) not in self.labels:
                raise DataError(
                    f"eval_data: the label of a row is {row.get('label')!r}; classes are "
                    f"{', '.join(self.labels)}"
                )

    def _plan(self, rows: Sequence[Row]) -> Any:
        own = {k: v for k, v in self.training.items() if k not in OF_FIT}
        data = data_of([{"text": r["text"], "label": str(r["label"])} for r in rows])
        if self.max_length is not None:
            data = dataclasses.replace(data, max_length=self.max_length)
        return classifier(data, labels=list(self.labels), **own)

    def restart(self) -> None:
        self.model = None

    def train(self, rows: Sequence[Row], seed: int) -> None:
        """Train a classifier from the model of the start."""
        settings = {k: v for k, v in self.training.items() if k in OF_FIT and k != "steps"}
        result = fit(
            self.spec,
            self._plan(rows),
            steps=self.steps,
            seed=seed,
            console=self._console,
            **settings,
        )
        self.model = result.model

    def _current(self) -> Classifier:
        """The classifier of the last round; before the first one, the trunk with a head of 0."""
        if self.model is None:
            plan = self._plan([{"text": "a", "label": name} for name in self.labels])
            loaded = self.spec.load_scores(per=plan.scores)
            assert isinstance(loaded, Classifier)
            self.model = loaded
        return self.model

    def _said(self, rows: Sequence[Row]) -> Predictions:
        return self._current().predict([row["text"] for row in rows], max_length=self.max_length)

    def inputs(
        self,
        names: Collection[str],
        candidates: Sequence[Row],
        labelled: Sequence[Row],
        seed: int,
    ) -> dict[str, Any]:
        """Numbers of the classifier as it is."""
        made: dict[str, Any] = {}
        if {"probabilities", "embeddings"} & set(names):
            said = self._said(candidates)
            made |= {"probabilities": said.probabilities, "embeddings": said.embeddings}
        if {"labelled_probabilities", "labelled_embeddings"} & set(names):
            said = self._said(labelled)
            made["labelled_probabilities"] = said.probabilities
            made["labelled_embeddings"] = said.embeddings
        if "labelled_classes" in names:
            places = [self.labels.index(str(row["label"])) for row in labelled]
            made["labelled_classes"] = np.array(places, dtype=np.float64)
        if "committee" in names:
            made["committee"] = self._current().committee(
                [row["text"] for row in candidates],
                num_members=self.num_members,
                seed=seed,
                max_length=self.max_length,
            )
        return made

    def outcomes(self) -> list[float]:
        return accuracy(self._current(), self.held_out, max_length=self.max_length)

    def predict(self, rows: Sequence[Row]) -> tuple[list[str], list[float]] | None:
        said = self._said(rows)
        return said.predicted, [float(c) for c in said.confidences]

    def embed(self, rows: Sequence[Row]) -> Any:
        return self._said(rows).embeddings

    def save(self, folder: Path) -> None:
        if self.model is not None:
            self.model.save(folder)
