"""Teachers and critics as objects: a loaded model and a named one train to the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support import weights_of

import posttrain as pt
from posttrain.models.spec import model_spec
from posttrain.training.roles import load_models, micro_batch_tokens
from posttrain.training.settings import TrainingSettings

QUIET = Console(quiet=True)
ROWS = [{"prompt": f"Q: {a}+2\nA:", "completion": f" {a + 2}"} for a in range(8)]
TASK = pt.make_task([{"prompt": f"{i}+1="} for i in range(6)])


@pytest.fixture(scope="module")
def teacher(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "model"
    pt.load(tiny_folder, init="random", seed=4).save(folder)
    return folder


def distill(teacher: Any) -> pt.Plan:
    return pt.distill(ROWS, teacher=teacher, learning_rate=1e-3, batch_size=4)


def ppo(**settings: Any) -> pt.Plan:
    sampling = pt.Sampling(max_tokens=4)
    return pt.ppo(
        TASK, rewards=["length"], batch_size=4, learning_rate=1e-3, sampling=sampling, **settings
    )


def test_a_loaded_teacher_teaches_as_a_named_one(tiny_folder: Path, teacher: Path) -> None:
    model = pt.load(teacher)
    before = weights_of(model)
    named = pt.fit(tiny_folder, distill(teacher), steps=3, console=QUIET)
    loaded = pt.fit(pt.load(tiny_folder), distill(model), steps=3, console=QUIET)
    assert weights_of(loaded.model) == weights_of(named.model)
    assert weights_of(model) == before


def test_a_loaded_policy_with_a_critic_trains_as_a_named_one(
    tiny_folder: Path, teacher: Path
) -> None:
    for settings in ({}, {"critic": str(teacher), "critic_learning_rate": 1e-2}):
        named = pt.fit(tiny_folder, ppo(**settings), steps=2, console=QUIET)
        loaded = pt.fit(pt.load(tiny_folder), ppo(**settings), steps=2, console=QUIET)
        assert weights_of(loaded.model) == weights_of(named.model)
        assert weights_of(loaded.model.critic) == weights_of(named.model.critic)


def test_the_models_of_a_plan(tiny_folder: Path, teacher: Path) -> None:
    spec = model_spec(tiny_folder)
    plan = distill(teacher)
    model = load_models(spec, plan, plan.objective)
    assert weights_of(model.teacher) == weights_of(pt.load(teacher))
    assert not any(p.requires_grad for p in model.teacher.hf.parameters())
    assert model.critic is None and model._frozen is None
    plan = ppo(critic_learning_rate=5e-3)
    model = load_models(spec, plan, plan.objective)
    factors = {model.rate_factors[p] for p in model.critic.trainable_parameters()}
    assert [round(f, 6) for f in factors] == [5.0]
    plan = pt.sft(ROWS, neftune_noise_alpha=3.0)
    assert load_models(spec, plan, plan.objective).neftune_noise_alpha == 3.0


def test_tokens_of_a_forward_pass(tiny_folder: Path) -> None:
    model = pt.load(tiny_folder, device="cpu")
    assert micro_batch_tokens(model, TrainingSettings()) == 2048
    assert micro_batch_tokens(model, TrainingSettings(max_tokens_per_micro_batch=77)) == 77
