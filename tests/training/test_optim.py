from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from posttrain.errors import CheckpointError
from posttrain.training.optim import Optimizer, learning_rate_factor


def factors(steps: int, **changes: object) -> list[float]:
    settings = {"schedule": "linear", "warmup_steps": 0.0, "min_lr_ratio": 0.0, **changes}
    return [learning_rate_factor(i, steps, **settings) for i in range(steps)]


def test_schedules_by_hand() -> None:
    assert factors(4) == [1.0, 0.75, 0.5, 0.25]
    assert factors(4, schedule="constant", warmup_steps=2) == [1.0] * 4
    assert factors(4, schedule="constant_with_warmup", warmup_steps=1) == [0.5, 1.0, 1.0, 1.0]
    assert factors(4, schedule="cosine") == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)]
    )
    assert factors(4, min_lr_ratio=0.5) == [1.0, 0.875, 0.75, 0.625]
    assert factors(10, warmup_steps=0.2)[:3] == pytest.approx(
        [1 / 3, 2 / 3, 1.0]
    )  # a share of the steps


def parameters(dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(4, 3, dtype=dtype)), nn.Parameter(torch.randn(3, dtype=dtype))]


def steps(params: list[nn.Parameter], optimizer: Optimizer, count: int, first: int = 0) -> None:
    for i in range(first, first + count):
        torch.manual_seed(100 + i)
        for p in params:
            p.grad = torch.randn(p.shape).to(p.dtype)
        optimizer.clip_gradients()
        optimizer.step(i)


def test_matches_plain_adamw() -> None:
    ours, theirs = parameters(), parameters()
    optimizer = Optimizer(
        ours, steps=5, learning_rate=0.1, weight_decay=0.1, schedule="constant", max_grad_norm=0
    )
    plain = torch.optim.AdamW(
        [
            {"params": [theirs[0]], "weight_decay": 0.1},
            {"params": [theirs[1]], "weight_decay": 0.0},
        ],
        lr=0.1,
    )
    for i in range(5):
        torch.manual_seed(100 + i)
        for p in theirs:
            p.grad = torch.randn(p.shape)
        plain.step()
    steps(ours, optimizer, 5)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_clipping() -> None:
    params = parameters()
    for p in params:
        p.grad = torch.full_like(p, 2.0)
    optimizer = Optimizer(params, steps=1, learning_rate=0.1, max_grad_norm=1.0)
    assert optimizer.clip_gradients() == pytest.approx(2 * math.sqrt(15))
    assert math.sqrt(
        sum(float(p.grad.square().sum()) for p in params if p.grad is not None)
    ) == pytest.approx(1, rel=1e-4)


def test_small_updates_reach_bfloat16_weights() -> None:
    """A thousand updates of 1e-5 move a weight of 1 by 0.01; in bfloat16 alone each would be
    rounded away.
    """
    p = nn.Parameter(torch.ones(1, 1, dtype=torch.bfloat16))
    optimizer = Optimizer([p], steps=1000, learning_rate=1e-5, schedule="constant")
    for i in range(1000):
        p.grad = torch.ones_like(p)
        optimizer.step(i)
    assert float(p) == pytest.approx(0.99, abs=4e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_restores_exactly(dtype: torch.dtype) -> None:
    whole = parameters(dtype)
    optimizer = Optimizer(whole, steps=8, learning_rate=0.01)
    steps(whole, optimizer, 8)
    half = parameters(dtype)
    first = Optimizer(half, steps=8, learning_rate=0.01)
    steps(half, first, 4)
    rest = [nn.Parameter(p.detach().clone()) for p in half]
    second = Optimizer(rest, steps=8, learning_rate=0.01)
    second.load_state_dict(first.state_dict())
    steps(rest, second, 4, first=4)
    for a, b in zip(whole, rest, strict=True):
        assert torch.equal(a, b)


def test_state_of_another_model_is_refused() -> None:
    one = Optimizer(parameters(), steps=1, learning_rate=0.1)
    other = Optimizer(parameters()[:1], steps=1, learning_rate=0.1)
    with pytest.raises(CheckpointError, match="has 2 parameters, this model trains 1"):
        other.load_state_dict(one.state_dict())


def test_gradients_whose_squares_overflow_are_clipped() -> None:
    """(3e30, 4e30) has norm 5e30, though its squares are beyond float32."""
    weight = nn.Parameter(torch.zeros(2))
    optimizer = Optimizer([weight], steps=1, learning_rate=1.0, max_grad_norm=1.0)
    weight.grad = torch.tensor([3e30, 4e30])
    assert optimizer.clip_gradients() == pytest.approx(5e30)
    assert weight.grad.tolist() == pytest.approx([0.6, 0.8])
    weight.grad = torch.tensor([3e30, float("inf")])
    assert optimizer.clip_gradients() == float("inf")
