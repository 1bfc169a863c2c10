"""Folders of adapters that change what a model computes."""

from __future__ import annotations

from pathlib import Path

import torch

from posttrain.config import AdapterConfig, LoraConfig
from posttrain.models.load import load_model


def adapter_folder(
    base: Path, place: Path, settings: LoraConfig | AdapterConfig | None = None, seed: int = 0
) -> Path:
    """Save adapters as `LanguageModel.save` writes them, with weights that are drawn with `seed`.

    Args:
        settings: their kind; without it LoRA of rank 2.
    """
    settings = settings or LoraConfig(r=2)
    key = "lora" if isinstance(settings, LoraConfig) else "adapter"
    model = load_model(base, **{key: settings})
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.save(place)
    return place
