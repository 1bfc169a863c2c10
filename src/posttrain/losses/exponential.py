"""The exponential of a log-ratio, without overflow.

A log-ratio of 89 nats is above what float32 can exponentiate. There the value becomes infinite,
and where the true gradient is 0 (a clipped ratio, a saturated sigmoid) the chain rule forms
0 * inf = NaN.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LIMITS = {torch.float64: 640.0, torch.float16: 10.0}
# float32 and bfloat16 overflow at 88.7; the rest is room for factors such as an advantage.
_LIMIT = 80.0


def bounded_exp(x: Tensor, *, power: int = 1) -> Tensor:
    """e^x up to a limit L, and e^L (1 + log(1 + x - L)) above it.

    It is finite and increasing, and its slope is continuous. Up to L, value and gradient are those
    of exp to the bit. L is 80 in float32 and bfloat16, and 640 in float64.

    Args:
        x: nats, any shape. power: L is divided by it; 2 where the result is squared or multiplied
            with another exponential.
    """
    limit = _limit(x, power)
    return x.clamp(max=limit).exp() + _tail(x, limit)


def bounded_expm1(x: Tensor, *, power: int = 1) -> Tensor:
    """`bounded_exp` less 1, exact for small x."""
    limit = _limit(x, power)
    return x.clamp(max=limit).expm1() + _tail(x, limit)


def _limit(x: Tensor, power: int) -> float:
    return _LIMITS.get(x.dtype, _LIMIT) / power


def _tail(x: Tensor, limit: float) -> Tensor:
    """What lies above e^limit; 0 up to the limit."""
    # The gradient of relu at 0 is 0, so that the slope at the limit is counted once.
    return math.exp(limit) * (x - limit).relu().log1p()
