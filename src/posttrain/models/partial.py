"""Training only some of a model's own weights: its biases, its last blocks, or named parameters."""

from __future__ import annotations

from typing import Any

import torch

from posttrain.config import AdapterConfig
from posttrain.errors import ModelError, nearest


def freeze(model: Any, settings: AdapterConfig) -> None:
    """Leave only some of the model's own weights trainable: all biases, or the last blocks and
    named parameters.

    Raises:
        ModelError: nothing would be trained, or a name that no parameter holds.
    """
    names = [name for name, _ in model.named_parameters()]
    if settings.kind == "bitfit":
        trained = {name for name in names if name.endswith(".bias")}
        if not trained:
            raise ModelError(
                f"adapter: {type(model).__name__} has no biases, so bitfit trains nothing; take "
                "ia3, or lora with a small r"
            )
    else:
        trained = set()
        for part in settings.modules:
            matches = {name for name in names if part in name}
            if not matches:
                pieces = {piece for name in names for piece in name.split(".")}
                words = {piece for piece in pieces if not piece.isdigit()}
                raise ModelError(
                    f"adapter.modules: no parameter's name holds {part!r}: {nearest(part, words)}"
                )
            trained |= matches
        trained |= _of_last_layers(model, names, settings.last_layers)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def _of_last_layers(model: Any, names: list[str], count: int) -> set[str]:
    if not count:
        return set()
    blocks: Any = next(
        (m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) > 0), None
    )
    if blocks is None or count > len(blocks):
        raise ModelError(
            f"adapter.last_layers: {count} of {0 if blocks is None else len(blocks)} layers; take "
            "at most all"
        )
    chosen = {id(p) for block in blocks[len(blocks) - count :] for p in block.parameters()}
    return {name for name in names if id(model.get_parameter(name)) in chosen}
