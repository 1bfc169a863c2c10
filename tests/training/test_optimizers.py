"""The optimiser that a plan and the settings of a training make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import posttrain as pt
from posttrain.config import AdapterConfig, TrustRegionConfig
from posttrain.training.optim import Optimizer
from posttrain.training.optimizers import make_optimizer
from posttrain.training.settings import TrainingSettings
from posttrain.training.trust_region import TrustRegion

ROWS = [{"prompt": "a", "completion": "b"}] * 2


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Any:
    return pt.load(tiny_folder, dtype="float32")


def made(model: Any, plan: pt.Plan, steps: int = 10, **settings: Any) -> Any:
    return make_optimizer(model, plan, plan.objective, TrainingSettings(**settings), steps)


def test_the_method_chooses_the_rate_and_the_training_the_rest(model: Any) -> None:
    plan = pt.sft(ROWS, learning_rate=0.5, lr_scheduler_type="linear")
    optimizer = made(
        model,
        plan,
        weight_decay=0.25,
        adam_beta1=0.5,
        adam_beta2=0.75,
        adam_epsilon=1e-3,
        max_grad_norm=2.0,
        warmup_steps=4,
        min_lr_ratio=0.5,
    )
    assert isinstance(optimizer, Optimizer) and optimizer.max_grad_norm == 2.0
    groups = optimizer.adamw.param_groups
    assert {g["weight_decay"] for g in groups} == {0.25, 0.0}
    assert all(g["betas"] == (0.5, 0.75) and g["eps"] == 1e-3 for g in groups)
    # rises over 4 of 10 steps, then falls in a line to half of the peak
    assert optimizer.rate(0) == pytest.approx(0.1)
    assert optimizer.rate(4) == pytest.approx(0.5)
    assert optimizer.rate(7) == pytest.approx(0.375)
    assert optimizer.rate(10) == pytest.approx(0.25)


def test_matrices_alone_decay(model: Any) -> None:
    optimizer = made(model, pt.sft(ROWS), weight_decay=0.1)
    for group in optimizer.adamw.param_groups:
        dimensions = {p.ndim >= 2 for p in group["params"]}
        assert dimensions == {group["weight_decay"] > 0}


def test_penalties_are_part_of_it(model: Any) -> None:
    assert made(model, pt.sft(ROWS)).penalties is None
    penalised = made(model, pt.sft(ROWS), penalties=({"name": "l2_to_start", "weight": 0.5},))
    assert penalised.penalties is not None


def test_a_trust_region_takes_the_place_of_adamw(model: Any) -> None:
    task = pt.make_task([{"prompt": "1+1="}])
    options = {"losses": ["surrogate"], "trust_region": TrustRegionConfig()}
    plan = pt.grpo(task, rewards=["length"], **options)
    assert isinstance(made(model, plan), TrustRegion)


def test_adalora_prunes_over_the_steps_of_the_run(tiny_folder: Path) -> None:
    adapted = pt.load(tiny_folder, dtype="float32", adapter=AdapterConfig("adalora", r=2))
    assert made(adapted, pt.sft(ROWS)).updates is not None
