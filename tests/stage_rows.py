"""What tests of retention methods share: rows of three stages, and weights moved at random."""

from __future__ import annotations

import torch

from posttrain.models.language_model import LanguageModel

ROWS = [
    [{"prompt": f"{i}+{i}=", "completion": f"{2 * i}"} for i in range(1, 7)],
    [{"prompt": f"abc{i}", "completion": "cba"[: 1 + i % 3]} for i in range(6)],
    [{"prompt": f"{i}?", "completion": "no yes"} for i in range(5)],
]


def moved(model: LanguageModel, size: float = 0.01, seed: int = 0) -> None:
    """Move the trained weights at random."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.trainable_parameters():
            p.add_(size * torch.randn(p.shape, generator=draw, dtype=p.dtype))
