"""What embeddings go through on their way to the layers, in a list that a model holds."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class EmbeddingTransform(Protocol):
    """A change of token embeddings before the first layer."""

    def is_active(self, *, training: bool) -> bool:
        """Whether it does anything in this mode; a model without active transforms embeds its
        tokens itself.
        """
        ...

    def __call__(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings [..., D] of tokens of sequences of `lengths` [...] -> [..., D]; tokens that
        stand before all others are put in front, [n + N, D].
        """
        ...


class EmbeddingNoise:
    """Uniform noise in +-alpha / sqrt(L D) on embeddings [..., D] of sequences of L tokens, in
    training (NEFTune, arXiv 2310.05914).

    Drawn from torch's global generator, as dropout is, so that it follows from the seed and resumes
    exactly. A token that sequences share takes the longest of them.

    Attributes:
        alpha: how much noise; 0 is none.
    """

    def __init__(self, alpha: float = 0.0) -> None:
        self.alpha = alpha

    def is_active(self, *, training: bool) -> bool:
        """In training, where alpha is above 0."""
        return training and self.alpha > 0

    def __call__(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """embedded [..., D], lengths [...] -> [..., D]."""
        width = self.alpha / (lengths * embedded.shape[-1]).sqrt()
        noise = (torch.rand_like(embedded) * 2 - 1) * width[..., None].to(embedded.dtype)
        return embedded + noise
