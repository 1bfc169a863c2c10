"""CURLoRA: an update C U R of columns and rows of the weights themselves, of which U is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

ADAPTER = "default"


class Rows(torch.nn.Module):
    """R [r, in] in the place of LoRA's A, frozen."""

    weight: Tensor
    bias = None

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", rows)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., r]."""
        return linear(x, self.weight)


class Columns(torch.nn.Module):
    """C U [out, r] in the place of LoRA's B: C [out, r] is frozen, U [r, r] trained from 0."""

    columns: Tensor
    bias = None

    def __init__(self, columns: Tensor) -> None:
        super().__init__()
        self.register_buffer("columns", columns)
        r = columns.shape[1]
        self.u = torch.nn.Parameter(columns.new_zeros(r, r))

    @property
    def weight(self) -> Tensor:
        """C U [out, r]."""
        return self.columns @ self.u

    def forward(self, x: Tensor) -> Tensor:
        """x [..., r] -> [..., out]."""
        return linear(linear(x, self.u), self.columns)


def cur_layers(hf: Any) -> Iterator[tuple[str, Any]]:
    """Layers with an update C U R, by name."""
    for name, module in _lora_layers(hf):
        if isinstance(module.lora_B[ADAPTER], Columns):
            yield name, module


def _lora_layers(hf: Any) -> Iterator[tuple[str, Any]]:
    for name, module in hf.named_modules():
        if ADAPTER in getattr(module, "lora_B", {}):
            yield name, module


def unlikely(norms: Tensor, number: int, draw: np.random.Generator) -> np.ndarray:
    """Places of columns or rows, drawn without replacement, the smaller the likelier.

    p_j = (1 / |w_j|^2) / sum_k 1 / |w_k|^2

    Args:
        norms [K]: squared norms. number: how many places, in ascending order.
    """
    inverse = 1 / np.maximum(norms.double().cpu().numpy(), 1e-12)
    chosen = draw.choice(len(inverse), number, replace=False, p=inverse / inverse.sum())
    return np.sort(chosen)


def make_cur(hf: Any, seed: int, saved: Mapping[str, Tensor] | None = None) -> Any:
    """Turn LoRA's fresh layers into C U R (arXiv 2408.14572): W + C U R.

    C and R are columns and rows of W that are drawn by the inverse of their squared norms, so that
    the update stays in directions that W hardly uses. U begins at 0.

    Args:
        seed: of the draws. saved: C and R by "cur.columns.NAME" and "cur.rows.NAME"; None draws.
    """
    for place, (name, module) in enumerate(list(_lora_layers(hf))):
        weight = module.get_base_layer().weight.detach()
        like = module.lora_A[ADAPTER].weight
        r = like.shape[0]
        if saved is not None:
            columns, rows = saved[f"cur.columns.{name}"], saved[f"cur.rows.{name}"]
        else:
            draw = np.random.default_rng((seed, place, 17))
            squares = weight.double().square()
            columns = weight[:, unlikely(squares.sum(0), r, draw)]
            rows = weight[unlikely(squares.sum(1), r, draw)]
        module.lora_A[ADAPTER] = Rows(rows.to(like).clone())
        module.lora_B[ADAPTER] = Columns(columns.to(like).clone())
    return hf


def frozen_parts(hf: Any) -> dict[str, Tensor]:
    """C and R of all layers, as `make_cur` takes them; none of a model without."""
    tensors: dict[str, Tensor] = {}
    for name, module in cur_layers(hf):
        tensors[f"cur.columns.{name}"] = module.lora_B[ADAPTER].columns
        tensors[f"cur.rows.{name}"] = module.lora_A[ADAPTER].weight
    return tensors


def plain_state(hf: Any) -> dict[str, Tensor] | None:
    """The state of the model with C U as LoRA's B, which PEFT alone loads; None without C U R."""
    layers = list(cur_layers(hf))
    if not layers:
        return None
    state = dict(hf.state_dict())
    for name, module in layers:
        part = f"{name}.lora_B.{ADAPTER}"
        for key in ("u", "columns"):
            del state[f"{part}.{key}"]
        state[f"{part}.weight"] = module.lora_B[ADAPTER].weight.detach()
    return state
