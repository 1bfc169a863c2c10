"""How near is near enough."""

from __future__ import annotations

import pytest
import torch

from posttrain.kernels.agreement import agrees, bound_of, relative_error


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [
        (torch.float64, 1e-9),
        (torch.float32, 1e-4),
        (torch.bfloat16, 5e-2),
        (torch.float16, 5e-2),
    ],
)
def test_bounds_by_type(dtype: torch.dtype, bound: float) -> None:
    expected = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert bound_of(dtype) == bound
    near = expected + torch.tensor([0.0, bound])  # half of it, relative to the largest
    far = expected + torch.tensor([0.0, 8 * bound])
    assert agrees(near.to(dtype), expected) and not agrees(far.to(dtype), expected)


def test_the_error_is_relative_to_the_largest_value_and_nan_never_agrees() -> None:
    expected = torch.tensor([4.0, 0.0])
    assert relative_error(torch.tensor([4.0, 1.0]), expected) == 0.25
    assert not agrees(torch.tensor([float("nan"), 0.0]), expected)
