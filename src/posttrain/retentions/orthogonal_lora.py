"""O-LoRA: each stage learns in a low-rank subspace orthogonal to those of earlier stages."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.averages import Averages
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.registry import retentions
from posttrain.retentions.base import Retention, Stage
from posttrain.training.plan import Learner, Plan

ADAPTER = "default"


def lora_layers(model: LanguageModel) -> Iterator[tuple[str, Any]]:
    """Layers with low-rank updates, by name."""
    for name, module in model.hf.named_modules():
        if ADAPTER in getattr(module, "lora_A", {}):
            yield name, module


class OrthogonalLora(Retention):
    """After each stage its update B A is added to the frozen weights and its A remembered.

    The model computes what it would with all earlier adapters concatenated and frozen.
    """

    changes_base = True

    def __init__(self, weight: float, norm_weight: float) -> None:
        self.weight, self.norm_weight = weight, norm_weight
        self.subspaces: dict[str, Tensor] = {}
        self.base: dict[str, Tensor] = {}

    def begin(self, stage: Stage) -> Plan:
        """A fresh adapter, and the plan with the term of overlap."""
        layers = dict(lora_layers(stage.model))
        if not layers:
            raise ConfigError(
                "o_lora: the model has no LoRA; load it with lora=pt.LoRA(), or choose another "
                "retention method"
            )
        if stage.number:
            with torch.no_grad():
                for place, module in enumerate(layers.values()):
                    _fresh(module, (stage.seed, stage.number, place))
        stage.model.weights_version += 1
        if not self.subspaces:
            return stage.plan
        return replace(stage.plan, rules=(*stage.plan.rules, self.separate))

    def separate(self, learner: Learner, step: int) -> Averages:
        """Add the gradient of lambda_1 sum |A_i A^T| + lambda_2 |(A, B)|_2 to that of the loss."""
        metrics = Averages()
        for name, module in lora_layers(learner.model):
            pair = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
            leaves = [p.detach().float().requires_grad_() for p in pair]
            with torch.enable_grad():
                overlap = (self.subspaces[name] @ leaves[0].T).abs().sum()
                norm = sum(leaf.norm() for leaf in leaves)
                value = self.weight * overlap + self.norm_weight * norm
                gradients = torch.autograd.grad(value, leaves, allow_unused=True)
            for p, gradient in zip(pair, gradients, strict=True):
                if gradient is not None and p.requires_grad:
                    added = gradient.to(p.dtype)
                    p.grad = added if p.grad is None else p.grad + added
            metrics.total("loss", value.detach())
            metrics.total("penalty/overlap", overlap.detach())
        return metrics

    def end(self, stage: Stage) -> None:
        """Add the update to the frozen weights and remember its subspace."""
        with torch.no_grad():
            for name, module in lora_layers(stage.model):
                a, b = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
                weight = module.get_base_layer().weight
                weight += (module.scaling[ADAPTER] * (b @ a)).to(weight.dtype)
                b.zero_()
                rows = a.detach().float().clone()
                earlier = self.subspaces.get(name)
                self.subspaces[name] = rows if earlier is None else torch.cat([earlier, rows])
                self.base[name] = weight.detach().clone()
        stage.model.weights_version += 1

    def restore(self, stage: Stage) -> None:
        """The frozen weights with the updates of the stages so far."""
        layers = dict(lora_layers(stage.model))
        with torch.no_grad():
            for name, weight in self.base.items():
                layers[name].get_base_layer().weight.copy_(weight)
        stage.model.weights_version += 1

    def state(self) -> dict[str, Tensor]:
        """Subspaces and changed weights."""
        subspaces = {f"subspace.{name}": rows for name, rows in self.subspaces.items()}
        return subspaces | {f"base.{name}": weight for name, weight in self.base.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore them."""
        for kind, values in (("subspace.", self.subspaces), ("base.", self.base)):
            values.clear()
            values |= {k.removeprefix(kind): v for k, v in state.items() if k.startswith(kind)}


def _fresh(module: Any, seed: tuple[int, ...]) -> None:
    """A as LoRA draws it, B zero: the update begins at nothing."""
    a = module.lora_A[ADAPTER].weight
    draw = torch.Generator().manual_seed(int(np.random.default_rng(seed).integers(1 << 62)))
    bound = 1 / math.sqrt(a.shape[1])  # kaiming_uniform_ with a = sqrt(5), as PEFT
    fresh = torch.rand(a.shape, generator=draw, dtype=torch.float32) * 2 * bound - bound
    a.copy_(fresh)
    module.lora_B[ADAPTER].weight.zero_()


@retentions.register
def o_lora(*, weight: float = 0.5, norm_weight: float = 0.0) -> Retention:
    """Orthogonal low-rank adaptation (arXiv 2310.14152), for a model with LoRA.

    L + weight sum_{i<t} sum |A_i A_t^T| + norm_weight |(A_t, B_t)|_2

    Each stage trains a fresh adapter (A_t, B_t). After it the update is added to the frozen
    weights, which computes what the concatenation of all adapters does.

    Args:
        weight: lambda_1, of the overlap with earlier subspaces; the sum of absolute values.
        norm_weight: lambda_2, of the size of the new adapter.
    """
    for name, value in (("weight", weight), ("norm_weight", norm_weight)):
        if not value >= 0:
            raise ConfigError(f"o_lora: {name} is {value}; it must not be negative")
    return OrthogonalLora(weight, norm_weight)
