"""Penalties by hand: values and gradients."""

from __future__ import annotations

import pytest
import torch

from posttrain.penalties.distance import l2, l2_to_start


def test_values_and_gradients_by_hand() -> None:
    theta = torch.tensor([[3.0, -1.0]], requires_grad=True)
    start = torch.tensor([[1.0, 1.0]])
    assert float(l2(theta).detach()) == pytest.approx(0.5 * (9 + 1))
    value = l2_to_start(theta, start)
    assert float(value.detach()) == pytest.approx(0.5 * (4 + 4))
    (gradient,) = torch.autograd.grad(value, theta)
    assert gradient.tolist() == [[2.0, -2.0]]
