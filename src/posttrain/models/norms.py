"""RMS normalisation in fewer passes over memory.

    y = w * x / sqrt(mean(x^2) + eps)

    n = x / sqrt(mean(x^2) + eps)      dx = (g w - n mean(g n w)) / sqrt(mean(x^2) + eps)      dw = sum(g n)

(Zhang and Sennrich 2019, arXiv:1910.07467.) Written out in single operations, as the models of transformers have it, the
backward pass reads and writes a row some ten times and keeps three copies of it; here it keeps the input alone.
"""

from __future__ import annotations

import functools
from typing import Any

import torch


def quicken_norms(model: torch.nn.Module) -> int:
    """Let a model's RMS norms take this way for float32 on a CPU, where a probe finds that they compute the formula above.

    Returns:
        how many were found. Weights, names and state are left as they are; all else goes the way it went.
    """
    found = [m for m in model.modules() if type(m).__name__.endswith("RMSNorm") and _computes_formula(m)]
    for module in found:
        module.__class__ = _quick(type(module))
    return len(found)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x [..., D], weight [D] -> [..., D]."""
    return _RmsNorm.apply(x, weight, epsilon)


@functools.cache
def _quick(kind: type) -> type:
    """A subclass that differs in its forward pass alone; an instance attribute would not survive a copy of the model."""

    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        if hidden_states.device.type == "cpu" and hidden_states.dtype == self.weight.dtype == torch.float32:
            return rms_norm(hidden_states, self.weight, _epsilon(self))
        return kind.forward(self, hidden_states)  # type: ignore[attr-defined, no-any-return]

    return type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def _epsilon(module: Any) -> float:
    return float(getattr(module, "variance_epsilon", None) or getattr(module, "eps", 0.0))


def _computes_formula(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, torch.nn.Parameter) or weight.ndim != 1 or weight.device.type != "cpu":
        return False
    # Of several sizes, so that the epsilon counts for some rows; its own generator, so that no random state is touched.
    rows = torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1e-4], [0.1], [1.0], [30.0]]
    )
    with torch.no_grad():
        try:
            theirs = module(rows.to(weight.dtype)).float()
        except Exception:  # one that takes more than its rows is not of this kind
            return False
        return torch.allclose(theirs, rms_norm(rows, weight.float(), _epsilon(module)), rtol=1e-4, atol=1e-6)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        normed = x * scale
        product = grad * normed
        grad_weight = product.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None
        mean = (product @ weight).unsqueeze(-1).div_(x.shape[-1])
        return torch.addcmul(grad * weight, normed, mean, value=-1).mul_(scale), grad_weight, None
