"""A text classifier: a language model's trunk with one logit per class, on token forests."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import dropout

from posttrain import kernels
from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.data.labelled_texts import text_sequence
from posttrain.errors import ModelError
from posttrain.losses.classes import class_means
from posttrain.models.class_head import Classes
from posttrain.models.forest_model import evaluating
from posttrain.models.score_model import ScoreModel

Numbers = NDArray[np.float64]

MAX_TOKENS = 16384
"""Distinct tokens of a forward pass that measures."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a classifier says of texts.

    Attributes:
        labels: names of the classes. probabilities: [P, C].
        embeddings: [P, D], the pooled hidden states that the head reads.
    """

    labels: tuple[str, ...]
    probabilities: Numbers
    embeddings: Numbers

    @property
    def predicted(self) -> list[str]:
        """The likeliest class of each text."""
        return [self.labels[int(place)] for place in self.probabilities.argmax(1)]

    @property
    def confidences(self) -> Numbers:
        """The probability of the likeliest class: [P]."""
        highest: Numbers = self.probabilities.max(1)
        return highest


class Classifier(ScoreModel):
    """A Hugging Face sequence classification model of several labels, which runs token forests.

    It is saved in the format that `AutoModelForSequenceClassification` loads. That class reads the
    last token, so its predictions are these where the pooling is "last".

    Attributes:
        classes: the head's classes, pooling and dropout.
    """

    def __init__(self, hf: Any, tokenizer: Any) -> None:
        super().__init__(hf, tokenizer)
        self.classes = Classes.read(self.pretrained.config)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.classes.labels

    def forward(
        self,
        forest: Forest,
        needs: Collection[str] = ("class_logits",),
        *,
        temperature: float = 1.0,
    ) -> dict[str, Tensor]:
        """Logits of the classes at the targets: {"class_logits": [M, C]}, float32. The mean over
        the targets of a text is its logits.
        """
        return {"class_logits": self._active(self._class_logits, forest) / temperature}

    __call__ = forward

    def _class_logits(self, forest: Forest) -> Tensor:
        hidden = self._rows_at(forest.to(self.device), sources=False)
        head = self.score_head
        weight = next(head.parameters())
        rate = self.classes.dropout
        rows = dropout(hidden, rate, training=self._active.hf.training and rate > 0)
        with kernels.computing(accelerated=False):
            logits: Tensor = head(rows.to(weight.dtype))
        return logits.to(torch.promote_types(hidden.dtype, torch.float32))

    def _at(self, forest: Forest, *, sources: bool) -> Tensor:
        raise ModelError(
            f"a classifier of {', '.join(self.labels)} gives classes and no score; train a reward "
            "model with `posttrain reward_model`"
        )

    def predict(self, texts: Sequence[str], *, max_length: int | None = None) -> Predictions:
        """Probabilities and embeddings of texts, with dropout off.

        Args:
            max_length: tokens that are read of a text; None is the model's context, at most 1024.
        """
        pooled = self._pooled(texts, max_length)
        with torch.no_grad():
            logits = self._head(pooled)
        return Predictions(
            self.labels,
            logits.double().softmax(1).cpu().numpy(),
            pooled.double().cpu().numpy(),
        )

    def committee(
        self,
        texts: Sequence[str],
        *,
        num_members: int = 8,
        rate: float | None = None,
        seed: int = 0,
        max_length: int | None = None,
    ) -> Numbers:
        """Probabilities [K, P, C] of the members of a committee: dropout on what the head reads
        (Gal and Ghahramani, arXiv 1506.02142, on the last layer alone).

        A member is one draw of dropped numbers for all texts, so that it is one set of weights.

        Args:
            rate: of dropout; None is that of training, and .2 where the model has none.
        """
        rate = rate or self.classes.dropout or 0.2
        pooled = self._pooled(texts, max_length)
        draw = np.random.default_rng((seed, num_members))
        kept = draw.random((num_members, pooled.shape[1])) >= rate
        members = []
        for mask in kept:
            scale = torch.as_tensor(mask / (1 - rate), dtype=pooled.dtype, device=pooled.device)
            with torch.no_grad():
                members.append(self._head(pooled * scale).double().softmax(1).cpu().numpy())
        return np.stack(members)

    def _head(self, pooled: Tensor) -> Tensor:
        weight = next(self.score_head.parameters())
        logits: Tensor = self.score_head(pooled.to(weight.dtype)).float()
        return logits

    def _pooled(self, texts: Sequence[str], max_length: int | None) -> Tensor:
        """Pooled hidden states [P, D], some texts at a time, in their order."""
        limit = max_length or min(1024, self.context_length or 1024)
        sequences = [self._sequence(text, limit, str(place)) for place, text in enumerate(texts)]
        # Texts of like length stand together, so that padding wastes little.
        sequences.sort(key=lambda sequence: len(sequence.ids))
        pooled = torch.zeros(len(texts), self.config.hidden_size, device=self.device)
        with evaluating(self.hf), torch.no_grad():
            for forest in Batch([Tree.build([s]) for s in sequences]).split(MAX_TOKENS):
                micro = forest.to(self.device)
                hidden = self.rows_at(micro, sources=False).float()
                places = torch.tensor([int(row) for row in forest.rows], device=self.device)
                pooled[places] = class_means(hidden, micro.sequence, micro.num_sequences)
        return pooled

    def _sequence(self, text: str, max_length: int, row: str = "") -> TokenSequence:
        return text_sequence(text, self.tokenizer, self.classes.pooling, max_length, row)[0]
