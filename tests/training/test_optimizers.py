"""The optimiser that a plan and the settings of a training make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import posttrain as pt
from posttrain.config import AdapterConfig, ModelConfig, TrustRegionConfig
from posttrain.errors import ConfigError
from posttrain.models.named import NamedModel
from posttrain.training.optim import Optimizer
from posttrain.training.optimizers import check_optimizer, make_optimizer
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
    groups = optimizer.rules["adamw"].param_groups
    assert {g["weight_decay"] for g in groups} == {0.25, 0.0}
    assert all(g["betas"] == (0.5, 0.75) and g["eps"] == 1e-3 for g in groups)
    # rises over 4 of 10 steps, then falls in a line to half of the peak
    assert optimizer.rate(0) == pytest.approx(0.1)
    assert optimizer.rate(4) == pytest.approx(0.5)
    assert optimizer.rate(7) == pytest.approx(0.375)
    assert optimizer.rate(10) == pytest.approx(0.25)


def test_matrices_alone_decay(model: Any) -> None:
    optimizer = made(model, pt.sft(ROWS), weight_decay=0.1)
    for group in optimizer.rules["adamw"].param_groups:
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
    region = made(model, plan, ema_decay=0.5)
    assert isinstance(region, TrustRegion) and region.average is region.rest.average
    assert region.memory == region.rest.memory
    with pytest.raises(ConfigError, match="^optimizer: 'muon'"):
        check_optimizer(plan, TrainingSettings(optimizer="muon"), goes_on=False)


@pytest.mark.parametrize("name", ["adamw_8bit", "muon"])
def test_settings_choose_the_rule(model: Any, name: str) -> None:
    options = {"muon_momentum": 0.5, "muon_scale": "original"} if name == "muon" else {}
    optimizer = made(model, pt.sft(ROWS), optimizer=name, ema_decay=0.75, **options)
    group = optimizer.rules[name].param_groups[0]
    if name == "muon":
        assert (group["momentum"], group["adjust_lr_fn"]) == (0.5, "original")
    assert optimizer.average.decay == 0.75


def test_a_critics_matrices_are_muons_and_its_head_is_not(tiny_folder: Path) -> None:
    model = pt.load(tiny_folder, dtype="float32")
    model.critic = NamedModel(ModelConfig(str(tiny_folder), dtype="float32")).load_scores(
        per="token"
    )
    optimizer = made(model, pt.sft(ROWS), optimizer="muon")
    muons = {id(p) for group in optimizer.rules["muon"].param_groups for p in group["params"]}
    of_critic = dict(model.critic.hf.named_parameters())
    chosen = {name for name, p in of_critic.items() if id(p) in muons}
    assert chosen and all(".layers." in name for name in chosen)


def test_adalora_prunes_over_the_steps_of_the_run(tiny_folder: Path) -> None:
    adapted = pt.load(tiny_folder, dtype="float32", adapter=AdapterConfig("adalora", r=2))
    assert made(adapted, pt.sft(ROWS)).updates is not None
