"""How near a fast path has to be to what it stands in for."""

from __future__ import annotations

import torch

_BOUNDS = {torch.float64: 1e-9, torch.float32: 1e-4}
_HALF_PRECISION_BOUND = 5e-2


def bound_of(dtype: torch.dtype) -> float:
    """The largest relative error allowed in a type: 1e-9, 1e-4, and 5e-2 in half precision."""
    return _BOUNDS.get(dtype, _HALF_PRECISION_BOUND)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """max |actual - expected| / max |expected|, in float64."""
    expected = expected.double()
    return float((actual.double() - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def agrees(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """Whether the relative error is within the bound of actual's type; NaN never agrees."""
    return relative_error(actual, expected) <= bound_of(actual.dtype)
