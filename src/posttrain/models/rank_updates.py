"""What AdaLoRA does beside gradient descent."""

from __future__ import annotations

from typing import Any

import torch

from posttrain.models.peft_kind import adapter_kind


class RankUpdates:
    """AdaLoRA's own updates (arXiv 2303.10512): keep P and Q near orthogonal, and prune ranks.

    The first tenth of the steps trains all ranks, then their number falls by a cubic law until
    seven tenths, and the last three tenths train what is left.

    Args:
        weight: of R(P, Q) = mean over the matrices of |P P^T - I|, whose gradient is added.
    """

    def __init__(self, hf: Any, steps: int, *, weight: float = 0.5) -> None:
        self.hf, self.weight = hf, weight
        config = hf.peft_config["default"]
        config.total_step, config.tinit, config.tfinal = steps, steps // 10, 3 * steps // 10
        config.deltaT = max(1, steps // 100)

    def before(self) -> None:
        """Add the penalty's gradient to those of the loss."""
        matrices = [
            (n, p)
            for n, p in self.hf.named_parameters()
            if p.grad is not None and ("lora_A" in n or "lora_B" in n)
        ]
        with torch.enable_grad():
            for name, matrix in matrices:
                rows = matrix if "lora_A" in name else matrix.T
                unit = torch.eye(len(rows), device=rows.device, dtype=rows.dtype)
                distance = torch.linalg.matrix_norm(rows @ rows.T - unit)
                (gradient,) = torch.autograd.grad(distance, matrix)
                assert matrix.grad is not None
                matrix.grad += self.weight / len(matrices) * gradient

    def after(self, step: int) -> None:
        """After update number `step` (from 0): rank by weights and gradients, and prune."""
        self.hf.base_model.update_and_allocate(step + 1)


def updates_of(hf: Any, steps: int) -> RankUpdates | None:
    """What an adapter does beside gradient descent, None for most."""
    return RankUpdates(hf, steps) if adapter_kind(hf) == "ADALORA" else None
