"""Which rule updates which parameter, and Muon beside a plain reference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

import posttrain as pt
from posttrain.config import LoraConfig, MuonScale, OptimizerName
from posttrain.training.optim import Optimizer
from posttrain.training.update_rules import RULE_NAMES, UpdateRule, hidden_matrices, state_bytes

QUINTIC = (3.4445, -4.7750, 2.0315)


def test_every_choice_has_a_rule() -> None:
    assert get_args(OptimizerName) == RULE_NAMES


def orthogonal(matrix: Tensor) -> Tensor:
    """Five Newton-Schulz steps in float64: x <- a x + b x^3 + c x^5 on singular values."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = QUINTIC[0] * s + QUINTIC[1] * s**3 + QUINTIC[2] * s**5
    return u @ torch.diag(s) @ v


def muon(weight: nn.Parameter, scale: MuonScale, decay: float = 0.0) -> Optimizer:
    rule = UpdateRule("muon", muon_scale=scale, matrices=frozenset([weight]))
    return Optimizer(
        [weight],
        steps=10,
        learning_rate=0.5,
        weight_decay=decay,
        rule=rule,
        schedule="constant",
        max_grad_norm=0,
    )


def test_a_diagonal_by_hand() -> None:
    """diag(3, 4) is (0.6, 0.8) over its norm. One quintic step: 3.4445 x - 4.775 x^3 + 2.0315 x^5
    = 1.19327 and 0.97648. After five steps both are near 1.
    """
    a, b, c = QUINTIC
    first = [a * x + b * x**3 + c * x**5 for x in (0.6, 0.8)]
    assert first == pytest.approx([1.19327, 0.97648], abs=1e-4)
    weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    weight.grad = torch.diag(torch.tensor([3.0, 4.0], dtype=torch.float64))
    expected = orthogonal(weight.grad)
    muon(weight, "original").step(0)
    torch.testing.assert_close(weight.detach(), -0.5 * expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("scale", get_args(MuonScale))
@pytest.mark.parametrize("shape", [(24, 6), (6, 24), (16, 16)])
def test_beside_a_reference(scale: MuonScale, shape: tuple[int, int]) -> None:
    """Three steps with momentum and decay. The products of torch's iteration are in bfloat16."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(shape, dtype=torch.float64))
    expected, momentum = weight.detach().clone(), torch.zeros(shape, dtype=torch.float64)
    optimizer = muon(weight, scale, decay=0.1)
    rows, columns = shape
    factor = {
        "original": math.sqrt(max(1, rows / columns)),
        "match_rms_adamw": 0.2 * math.sqrt(max(rows, columns)),
    }[scale]
    for step in range(3):
        gradient = torch.randn(shape, dtype=torch.float64)
        weight.grad = gradient.clone()
        optimizer.step(step)
        momentum = 0.95 * momentum + 0.05 * gradient
        update = orthogonal(0.05 * gradient + 0.95 * momentum)
        expected = expected * (1 - 0.5 * 0.1) - 0.5 * factor * update
    error = (weight.detach() - expected).norm() / (0.5 * factor * math.sqrt(3 * min(shape)))
    assert float(error) < 0.02


def test_matched_updates_are_as_large_as_adamws() -> None:
    """0.2 sqrt(max(A, B)) gives a root mean square near 0.2 rates, as AdamW's in training."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(64, 192))
    weight.grad = torch.randn(64, 192)
    muon(weight, "match_rms_adamw").step(0)
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.2 * 0.5, rel=0.15)


def test_embeddings_heads_norms_and_vectors_are_adamws(tiny_folder: Path) -> None:
    model = pt.load(tiny_folder, dtype="float32")
    chosen = hidden_matrices([model.hf])
    names = {name for name, p in model.hf.named_parameters() if p in chosen}
    assert names and all(".layers." in name and name.endswith("proj.weight") for name in names)
    matrices = {
        name for name, p in model.hf.named_parameters() if p.ndim == 2 and ".layers." in name
    }
    assert names == matrices


def test_adapters_are_matrices_too(tiny_folder: Path) -> None:
    model = pt.load(tiny_folder, dtype="float32", lora=LoraConfig(r=2))
    chosen = hidden_matrices([model.hf])
    assert chosen == {p for p in model.hf.parameters() if p.requires_grad and p.ndim == 2}


def test_rules_share_the_parameters() -> None:
    matrix, vector = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4))
    rule = UpdateRule("muon", matrices=frozenset([matrix]))
    optimizer = Optimizer([vector, matrix], steps=1, learning_rate=0.1, rule=rule)
    held: dict[str, Any] = {
        name: [p for group in each.param_groups for p in group["params"]]
        for name, each in optimizer.rules.items()
    }
    assert held["adamw"][0] is vector and held["muon"][0] is matrix
    assert isinstance(optimizer.rules["muon"], torch.optim.Muon)


def test_bytes_of_states() -> None:
    weight = nn.Parameter(torch.ones(10, 10))
    rule = torch.optim.Muon([weight])
    assert state_bytes(rule) == 0
    weight.grad = torch.ones(10, 10)
    rule.step()
    assert state_bytes(rule) == 400
