"""Bounded exponentials: exact up to a limit, finite beyond it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from posttrain.losses.exponential import bounded_exp, bounded_expm1


@pytest.mark.parametrize("exponential", [bounded_exp, bounded_expm1])
@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float32, 80.0), (torch.bfloat16, 80.0), (torch.float64, 640.0)]
)
@pytest.mark.parametrize("power", [1, 2])
def test_bounded_exponentials(
    exponential: Any, dtype: torch.dtype, limit: float, power: int
) -> None:
    """Up to the limit they are those of torch to the bit; beyond it they grow, ever more
    slowly, without a jump.
    """
    bound = limit / power
    draws = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    draws = (bound * (4 * draws - 3)).clamp(max=bound).to(dtype)
    inside, plain = draws.clone().requires_grad_(), draws.clone().requires_grad_()
    value, exact = (
        exponential(inside, power=power),
        plain.exp() if exponential is bounded_exp else plain.expm1(),
    )
    assert torch.equal(value, exact)
    value.sum().backward()
    exact.sum().backward()
    assert (
        inside.grad is not None and plain.grad is not None and torch.equal(inside.grad, plain.grad)
    )
    beyond = (
        (bound + torch.tensor([0.0, 8.0, 32.0, 1e3, 1e6], dtype=torch.float64))
        .to(dtype)
        .requires_grad_()
    )
    value = exponential(beyond, power=power)
    value.sum().backward()
    assert value.isfinite().all() and (value.diff() > 0).all()
    assert beyond.grad is not None and (beyond.grad > 0).all() and (beyond.grad.diff() < 0).all()
