"""Penalties in training: once per update, in the loss and the metrics, exact on resume."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.config import Component
from posttrain.errors import CheckpointError, ConfigError
from posttrain.recipe import parse_recipe, recipe_as_dict
from posttrain.training.optim import Optimizer
from posttrain.training.penalties import Penalties

TO_START = [Component("l2_to_start", {}, 0.1)]


def optimizer(parameter: torch.nn.Parameter, penalties: Any = TO_START) -> Optimizer:
    return Optimizer(
        [parameter],
        steps=10,
        learning_rate=0.5,
        schedule="constant",
        max_grad_norm=0.0,
        penalties=Penalties(penalties, [("theta", parameter)]),
    )


def update(opt: Optimizer, step: int, gradient: float = 1.0) -> dict[str, float]:
    (parameter,) = opt.parameters
    parameter.grad = torch.full_like(parameter, gradient)
    metrics = opt.penalize().means()
    opt.clip_gradients()
    opt.step(step)
    return metrics


def test_gradient_and_value_are_those_of_the_formula() -> None:
    theta = torch.nn.Parameter(torch.tensor([[1.0, 2.0]]))
    opt = optimizer(theta, [Component("l2_to_start", {}, 0.1), Component("l2", {}, 0.01)])
    with torch.no_grad():
        theta += 3.0
    theta.grad = torch.ones_like(theta)
    metrics = opt.penalize().means()
    np.testing.assert_allclose(theta.grad, [[1 + 0.3 + 0.04, 1 + 0.3 + 0.05]], rtol=1e-6)
    assert metrics["penalty/l2_to_start"] == pytest.approx(0.1 * 0.5 * 18)
    assert metrics["penalty/l2"] == pytest.approx(0.01 * 0.5 * (16 + 25))
    assert metrics["loss"] == pytest.approx(sum(v for k, v in metrics.items() if k != "loss"))


def test_a_tensor_without_gradient_and_a_frozen_one() -> None:
    """Nothing was learnt: the penalty still pulls. What is not trained is not seen."""
    theta = torch.nn.Parameter(torch.ones(2))
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    penalties = Penalties([Component("l2")], [("theta", theta), ("frozen", frozen)])
    metrics = penalties.add_gradients({}).means()
    assert metrics["penalty/l2"] == pytest.approx(1.0)
    assert theta.grad is not None and theta.grad.tolist() == [1, 1] and frozen.grad is None


def test_distances_in_half_precision_are_those_of_the_float32_copies() -> None:
    theta = torch.nn.Parameter(torch.full((2, 2), 100.0, dtype=torch.bfloat16))
    opt = optimizer(theta)
    with torch.no_grad():
        opt.masters[0] += 0.01  # below the resolution of bfloat16
    assert opt.penalize().means()["penalty/l2_to_start"] == pytest.approx(
        0.1 * 0.5 * 4 * 0.01**2, rel=1e-2
    )


def test_resume_is_exact_and_measures_from_the_start_of_the_run() -> None:
    def fresh() -> torch.nn.Parameter:
        return torch.nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))

    theta = fresh()
    opt = optimizer(theta)
    for step in range(3):
        update(opt, step)
    saved = copy.deepcopy((opt.state_dict(), theta.detach()))
    for step in range(3, 6):
        update(opt, step)
    resumed = torch.nn.Parameter(saved[1])
    again = optimizer(resumed)  # measures from the checkpoint's weights until it is restored
    again.load_state_dict(saved[0])
    for step in range(3, 6):
        metrics = update(again, step)
    assert torch.equal(resumed, theta)
    distance = float((resumed.detach() - fresh().detach()).square().sum())
    assert 0 < metrics["penalty/l2_to_start"] < 0.05 * distance * 1.5


def test_a_checkpoint_without_the_start_is_refused() -> None:
    theta = torch.nn.Parameter(torch.ones(2, 2))
    plain = Optimizer([theta], steps=1, learning_rate=0.1)
    assert "start" not in plain.state_dict()
    with pytest.raises(CheckpointError, match="theta"):
        optimizer(theta).load_state_dict(plain.state_dict())


def test_a_recipe_names_penalties() -> None:
    raw = {"method": "sft", "model": "embedded", "data": "rows.jsonl"}
    recipe = parse_recipe({**raw, "penalties": [{"name": "l2_to_start", "weight": 0.1}]})
    assert recipe.penalties == TO_START
    assert recipe_as_dict(recipe)["penalties"] == [{"name": "l2_to_start", "weight": 0.1}]
    for wrong, key in (
        ([{"name": "l2_to_star"}], "l2_to_start"),
        ([{"name": "l2", "weight": -1}], "weight"),
        ([{"name": "l2", "strength": 1}], "strength"),
    ):
        with pytest.raises(ConfigError, match=key):
            parse_recipe({**raw, "penalties": wrong})
