from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
from torch import nn

from posttrain.errors import CheckpointError
from posttrain.training.optim import Optimizer, learning_rate_factor
from posttrain.training.update_rules import UpdateRule


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


def parameters(
    dtype: torch.dtype = torch.float32, shape: tuple[int, int] = (4, 3)
) -> list[nn.Parameter]:
    torch.manual_seed(0)
    matrix = nn.Parameter(torch.randn(shape, dtype=dtype))
    return [matrix, nn.Parameter(torch.randn(3, dtype=dtype))]


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


RULES = ("adamw", "adamw_8bit", "muon")


def with_rule(params: list[nn.Parameter], name: str, **options: Any) -> Optimizer:
    rule = UpdateRule(name, matrices=frozenset(p for p in params if p.ndim == 2))  # type: ignore[arg-type]
    return Optimizer(params, steps=8, learning_rate=0.01, rule=rule, **options)


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_restores_exactly(dtype: torch.dtype, name: str, ema_decay: float) -> None:
    whole, half = parameters(dtype, (80, 70)), parameters(dtype, (80, 70))
    optimizer = with_rule(whole, name, ema_decay=ema_decay)
    steps(whole, optimizer, 8)
    first = with_rule(half, name, ema_decay=ema_decay)
    steps(half, first, 4)
    rest = [nn.Parameter(p.detach().clone()) for p in half]
    second = with_rule(rest, name, ema_decay=ema_decay)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    steps(rest, second, 4, first=4)
    for a, b in zip(whole, rest, strict=True):
        assert torch.equal(a, b)
    assert second.memory == optimizer.memory
    if optimizer.average is not None and second.average is not None:
        for a, b in zip(optimizer.average.values, second.average.values, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(("before", "now"), [("adamw", "muon"), ("adamw_8bit", "adamw")])
def test_state_of_another_rule_is_refused(before: str, now: str) -> None:
    state = with_rule(parameters(), before).state_dict()
    with pytest.raises(CheckpointError, match=before):
        with_rule(parameters(), now).load_state_dict(state)


def test_state_of_other_matrices_is_refused() -> None:
    """Muon's part must be the same parameters."""
    params = parameters() + parameters()
    one = UpdateRule("muon", matrices=frozenset([params[0]]))
    other = UpdateRule("muon", matrices=frozenset([params[2]]))
    state = Optimizer(params, steps=1, learning_rate=0.1, rule=one).state_dict()
    with pytest.raises(CheckpointError, match="adamw"):
        Optimizer(params, steps=1, learning_rate=0.1, rule=other).load_state_dict(state)


def test_memory_by_hand() -> None:
    """15 bfloat16 weights: two moments, a copy and an average of 4 bytes each, and AdamW's count
    of steps for each of two parameters.
    """
    params = parameters(torch.bfloat16)
    optimizer = Optimizer(params, steps=1, learning_rate=0.1, ema_decay=0.5)
    steps(params, optimizer, 1)
    assert optimizer.memory == {"moments": 2 * 60 + 2 * 4, "copies": 60, "average": 60}


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
