"""Block expansion: blocks that begin as the identity are inserted, and they alone are trained."""

from __future__ import annotations

import copy
from typing import Any

import torch

from posttrain.errors import ModelError

NEW_BLOCKS = "expanded_blocks"
"""The key of a model's config that holds the places of inserted blocks; transformers keeps it."""

_OUTPUTS = (
    "o_proj",
    "out_proj",
    "down_proj",
    "dense",
    "dense_4h_to_h",
    "c_proj",
    "fc2",
    "w2",
    "wo",
)


def train_new_blocks(model: Any, num_blocks: int) -> None:
    """Insert blocks that are the identity, and leave only them trainable (LLaMA-Pro, arXiv
    2401.02415).

        x + Attention(norm(x)) W_o,  W_o = 0,   x + MLP(norm(x)),  W_down = 0

    The L blocks form num_blocks groups, and each is followed by a copy of its last block whose
    output projections are zero. What the model computes stays the same, bit for bit. Of a model
    that was expanded before, the blocks of that time are trained on.

    Raises:
        ModelError: there are more groups than blocks, the projections of a block are not known, or
            the model was expanded by another number of blocks.
    """
    places = list(getattr(model.config, NEW_BLOCKS, None) or [])
    if not places:
        places = _expand(model, num_blocks)
    elif len(places) != num_blocks:
        raise ModelError(
            f"adapter.num_blocks: {num_blocks}, but the model was expanded by {len(places)} "
            "blocks, which are trained on; set the same number"
        )
    blocks = _blocks(model)
    new = {id(p) for place in places for p in blocks[place].parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in new)


def _expand(model: Any, num_blocks: int) -> list[int]:
    """Insert the blocks; their places among all."""
    blocks = _blocks(model)
    count = len(blocks)
    if num_blocks > count:
        raise ModelError(
            f"adapter.num_blocks: {num_blocks} of {count} blocks; insert at most one behind each"
        )
    ends = [round((k + 1) * count / num_blocks) - 1 for k in range(num_blocks)]
    order = [i for old in range(count) for i in ([old, old] if old in ends else [old])]
    places = [end + k + 1 for k, end in enumerate(ends)]
    expanded = [
        _identity(blocks[old]) if place in places else blocks[old]
        for place, old in enumerate(order)
    ]
    del blocks[:]  # the same list stays, whatever refers to it
    blocks.extend(expanded)
    for place, block in enumerate(blocks):
        for module in block.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = place
    _lengthen(model.config.get_text_config(decoder=True), count, order)
    setattr(model.config, NEW_BLOCKS, places)
    return places


def _blocks(model: Any) -> Any:
    """The list of blocks."""
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(
        f"adapter: {type(model).__name__} has no list of its {count} blocks, so none can be "
        "inserted; take kind 'partial', or lora"
    )


def _identity(block: torch.nn.Module) -> torch.nn.Module:
    """A copy of a block that adds nothing to what goes through it."""
    new = copy.deepcopy(block)
    zeroed = 0
    for name, module in new.named_modules():
        if name.rpartition(".")[2] in _OUTPUTS and isinstance(module, torch.nn.Linear):
            torch.nn.init.zeros_(module.weight)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)
            zeroed += 1
    if zeroed < 2:
        raise ModelError(
            f"adapter: a block of {type(block).__name__} has {zeroed} known output projections "
            "and needs those of attention and MLP; take kind 'partial', or lora"
        )
    return new


def _lengthen(config: Any, count: int, order: list[int]) -> None:
    """The config of the longer model: its number of blocks, and what it lists for each."""
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == count:
            setattr(config, name, [value[old] for old in order])
    config.num_hidden_layers = len(order)
