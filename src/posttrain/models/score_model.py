"""Models with a score instead of a vocabulary: reward models, process reward models and critics."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from posttrain import kernels
from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.errors import ModelError
from posttrain.models.forest_model import ForestModel, evaluating


class ScoreModel(ForestModel):
    """A Hugging Face sequence or token classification model with one label, which runs token
    forests.

    It is saved in the format that `AutoModelForSequenceClassification` (a score for a whole
    sequence: reward models) or
    `AutoModelForTokenClassification` (a score at every token: process reward models, critics)
    loads.
    """

    @property
    def score_head(self) -> nn.Module:
        """The projection of hidden states [..., D] to one number [..., 1]."""
        model: Any = self.pretrained
        for name in ("score", "classifier"):
            module = getattr(model, name, None)
            if module is not None:
                return module
        raise ModelError(f"{type(model).__name__} has no layer called score or classifier")

    def forward(
        self, forest: Forest, needs: Collection[str] = ("scores",), *, temperature: float = 1.0
    ) -> dict[str, torch.Tensor]:
        """Scores at the targets themselves: {"scores": [M]}, float32; temperature has no
        meaning here.
        """
        return {"scores": self._active(self._at, forest, sources=False)}

    __call__ = forward

    def values(self, forest: Forest) -> torch.Tensor:
        """Values of the states in which the targets were chosen, which end just before them:
        [M], float32.
        """
        scores: torch.Tensor = self._active(self._at, forest, sources=True)
        return scores

    def score(
        self, trees: Sequence[Sequence[TokenSequence]], max_tokens: int = 16384
    ) -> list[list[np.ndarray]]:
        """Scores at the targets of each sequence of each tree, float64, without gradient and with
        dropout off.

        Args:
            trees: sequences that share a prompt stand together, so that it is computed once.
            max_tokens: of a forward pass.
        """
        numbers = iter(range(sum(map(len, trees))))
        named = [
            [replace(s, row=str(next(numbers)), streams={}, values={}) for s in tree]
            for tree in trees
        ]
        scores_by_row: dict[int, np.ndarray] = {}
        with evaluating(self.hf), torch.no_grad():
            for forest in Batch([Tree.build(tree) for tree in named]).split(max_tokens):
                scores = self.forward(forest)["scores"].double().cpu()
                counts = torch.bincount(forest.sequence, minlength=forest.num_sequences).tolist()
                scores_by_row |= {
                    int(row): part.numpy()
                    for row, part in zip(forest.rows, scores.split(counts), strict=True)
                }
        return [[scores_by_row[int(s.row)] for s in tree] for tree in named]

    def at_ends(self, states: Sequence[Sequence[int]], *, max_tokens: int = 16384) -> list[float]:
        """The score at the last token of each list of ids, which is a critic's value of that
        state.
        """
        last = [TokenSequence(np.array(ids), np.arange(len(ids)) == len(ids) - 1) for ids in states]
        if not last:
            return []
        return [float(scores[0]) for scores in self.score([last], max_tokens)[0]]

    def _at(self, forest: Forest, *, sources: bool) -> torch.Tensor:
        hidden = self._rows_at(forest.to(self.device), sources=sources)
        head = self.score_head
        weight = next(head.parameters())
        with kernels.computing(accelerated=False):
            scores = head(hidden.to(weight.dtype))[:, 0].clone()  # FSDP hooks no views
        return scores.to(torch.promote_types(hidden.dtype, torch.float32))
