"""AdamW whose moments take one byte each, quantised by blocks."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

BLOCK = 256
"""Values that share a scale."""

MIN_SIZE = 4096
"""Parameters below this size keep moments in full: they are small, and often norms and biases."""

_CHUNK = 1 << 24  # values that are held in full precision at a time, a multiple of BLOCK


@functools.cache
def dynamic_codes(*, signed: bool) -> Tensor:
    """The 256 values in [-1, 1], or [0, 1], that a byte can stand for; float64, rising.

    Dynamic tree quantisation (Dettmers et al. 2022, arXiv 2110.02861, section 2.1): with e leading
    zeros a value is 10^-e times one of 2^f equal steps' centres of [0.1, 1], where f is what is
    left of 6 (signed) or 7 bits. 0 and 1 are codes of their own.
    """
    bits = 6 if signed else 7
    positive = []
    for exponent in range(7):
        edges = torch.linspace(0.1, 1.0, 2 ** (bits - exponent) + 1, dtype=torch.float64)
        positive.append((edges[:-1] + edges[1:]) / 2 * 10.0**-exponent)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    parts = [*positive, ends, *(-part for part in positive)] if signed else [*positive, ends]
    return torch.cat(parts).sort().values


class Quantizer:
    """Values to bytes and back, by the nearest code times the largest magnitude of a block."""

    def __init__(self, codes: Tensor) -> None:
        self.codes = codes
        self.edges = (codes[:-1] + codes[1:]) / 2

    @classmethod
    def on(cls, device: torch.device, dtype: torch.dtype, *, signed: bool) -> Quantizer:
        """The quantiser of a device and a precision."""
        return cls(dynamic_codes(signed=signed).to(device, dtype))

    def encode(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Bytes [n] and scales [ceil(n / BLOCK)] of values [n]."""
        count = values.numel()
        num_blocks = math.ceil(count / BLOCK)
        blocks = torch.nn.functional.pad(values, (0, num_blocks * BLOCK - count)).view(-1, BLOCK)
        scales = blocks.abs().amax(1)
        shares = blocks / scales.clamp(min=torch.finfo(scales.dtype).tiny)[:, None]
        codes = torch.bucketize(shares, self.edges, out_int32=True).to(torch.uint8)
        return codes.view(-1)[:count], scales

    def decode(self, codes: Tensor, scales: Tensor) -> Tensor:
        """The values [n] that bytes [n] and scales stand for."""
        values = self.codes[codes.int()]
        return values.mul_(scales.repeat_interleave(BLOCK)[: codes.numel()])


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (arXiv 1711.05101) with moments of one byte and a scale for every 256 of them:

        m <- beta1 m + (1 - beta1) g          v <- beta2 v + (1 - beta2) g^2
        p <- (1 - rate decay) p - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)

    computed in the parameters' precision (float32 or float64), where m and sqrt(v) are read from
    bytes and written back to them (Dettmers et al. 2022, arXiv 2110.02861). That article
    quantises v. Its root has half the orders of magnitude, as m has: so no v is rounded to 0
    beside an m that is not, and no step is m / epsilon. A state takes 2.03 bytes per parameter
    in place of 8. Parameters of less than 4,096 values keep float moments.

    Args:
        params: parameters, or groups of them, as torch's optimisers take them.
        lr: learning rate. betas: decay of both moments. eps: added to the denominator.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update the parameters that have gradients. closure: must be None."""
        if closure is not None:
            raise TypeError("closure: this optimiser steps once per gradient; leave it out")
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        values, gradient = _flat(parameter), _flat(parameter.grad)
        state = self.state[parameter]
        if not state:
            state.update(_fresh_state(values))
        state["step"] += 1
        if "mean" in state:
            _adamw(values, gradient, state["mean"], state["root"], state["step"], group)
            return
        signed, unsigned = (
            Quantizer.on(values.device, values.dtype, signed=signed) for signed in (True, False)
        )
        for start in range(0, values.numel(), _CHUNK):
            part = slice(start, start + _CHUNK)
            blocks = slice(start // BLOCK, (start + _CHUNK) // BLOCK)
            mean = signed.decode(state["mean_codes"][part], state["mean_scales"][blocks])
            root = unsigned.decode(state["root_codes"][part], state["root_scales"][blocks])
            _adamw(values[part], gradient[part], mean, root, state["step"], group)
            for name, quantizer, moment in (("mean", signed, mean), ("root", unsigned, root)):
                codes, scales = quantizer.encode(moment)
                state[f"{name}_codes"][part] = codes
                state[f"{name}_scales"][blocks] = scales

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore moments; bytes stay bytes, which torch would convert to the parameters' type."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name in ("mean_codes", "root_codes"):
                if name in state:
                    state[name] = state[name].to(torch.uint8)


def _flat(tensor: Any) -> Tensor:
    """A view [n] of a tensor, of a sharded one of the part that is here."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.view(-1) if local.is_contiguous() else local.reshape(-1)


def _fresh_state(values: Tensor) -> dict[str, Any]:
    """Moments of zero. The byte of 0 is the place of 0 among the codes."""
    if values.numel() < MIN_SIZE:
        return {"step": 0, "mean": torch.zeros_like(values), "root": torch.zeros_like(values)}
    state: dict[str, Any] = {"step": 0}
    for name, signed in (("mean", True), ("root", False)):
        zero = int(torch.nonzero(dynamic_codes(signed=signed) == 0)[0])
        state[f"{name}_codes"] = torch.full_like(values, zero, dtype=torch.uint8)
        state[f"{name}_scales"] = values.new_zeros(math.ceil(values.numel() / BLOCK))
    return state


def _adamw(
    values: Tensor, gradient: Tensor, mean: Tensor, root: Tensor, step: int, group: dict[str, Any]
) -> None:
    """One update of values [n], mean [n] and root [n] = sqrt(v), all in place."""
    beta1, beta2 = group["betas"]
    mean.lerp_(gradient, 1 - beta1)
    root.square_().mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2).sqrt_()
    denominator = (root / math.sqrt(1 - beta2**step)).add_(group["eps"])
    values.mul_(1 - group["lr"] * group["weight_decay"])
    values.addcdiv_(mean, denominator, value=-group["lr"] / (1 - beta1**step))
