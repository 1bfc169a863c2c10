"""GEM, A-GEM, OGD: projections against their definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.registry import retentions
from posttrain.retentions.base import source_of, trained_parameters
from posttrain.retentions.projection import dot, gradient_of, nearest_in_cone, without
from posttrain.training.plan import Learner


def test_one_memory_is_a_gems_formula() -> None:
    """g = (1, -2), g_ref = (0, 1): g . g_ref = -2, so g becomes (1, 0)."""
    v = nearest_in_cone(np.array([[1.0]]), np.array([-2.0]))
    assert v == pytest.approx([2.0])
    assert np.array([1.0, -2.0]) + v[0] * np.array([0.0, 1.0]) == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize("seed", range(20))
def test_the_nearest_vector_satisfies_the_conditions_of_optimality(seed: int) -> None:
    draw = np.random.default_rng(seed)
    memory = draw.normal(size=(int(draw.integers(1, 6)), 8))
    g = draw.normal(size=8)
    v = nearest_in_cone(memory @ memory.T, memory @ g)
    found = g + v @ memory
    products = memory @ found
    assert (v >= 0).all() and (products >= -1e-7).all()
    assert abs(v @ products) < 1e-7  # complementary slackness
    for _ in range(200):  # no feasible vector is nearer
        other = found + 0.1 * draw.normal(size=8)
        if (memory @ other >= 0).all():
            assert np.linalg.norm(other - g) >= np.linalg.norm(found - g) - 1e-6


def test_memories_along_each_other_do_not_stop_it() -> None:
    memory = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    g = np.array([-3.0, 1.0])
    v = nearest_in_cone(memory @ memory.T, memory @ g)
    assert g + v @ memory == pytest.approx([0.0, 1.0], abs=1e-6)


def test_the_gradient_of_a_memory_leaves_the_others_alone(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    stage = stage_of(model)
    learner = Learner(model, None, 64)
    for p in model.trainable_parameters():
        p.grad = torch.full_like(p, 0.25)
    source = source_of(stage.earlier[0], model, 0)
    gradient = gradient_of(learner, stage.earlier[0].objective, source, 0)
    assert all(bool((p.grad == 0.25).all()) for p in model.trainable_parameters())
    for p in model.trainable_parameters():
        p.grad = None
    (batch,) = source.batches(0)
    (micro,) = batch.split(None)
    loss = -model.forward(micro, frozenset({"logprobs"}))["logprobs"].mean()
    loss.backward()
    for p, g in zip(trained_parameters(model).values(), gradient, strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, g, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["agem", "gem"])
def test_an_opposed_gradient_is_projected(
    model: LanguageModel, stage_of: Callable[..., Any], name: str
) -> None:
    stage = stage_of(model, 2)
    (rule,) = retentions.get(name)(batch_size=2).begin(stage).rules
    learner = Learner(model, None, 64)
    rule(learner, 0)  # makes its sources
    memory = [
        gradient_of(learner, plan.objective, source, 0)
        for plan, source in zip(rule.plans, rule._sources, strict=True)
    ]
    used = memory if name == "gem" else _drawn(rule, memory)
    for p, *parts in zip(trained_parameters(model).values(), *used, strict=True):
        p.grad = -sum(parts).to(p.dtype)
    before = [p.grad.clone() for p in trained_parameters(model).values() if p.grad is not None]
    metrics = rule(learner, 0).means()
    after = [p.grad for p in trained_parameters(model).values() if p.grad is not None]
    assert metrics["projection/share"] == 1.0
    for g in used:
        assert dot(after, g) >= -1e-4 * dot(g, g)
    assert dot(after, after) < dot(before, before)


def _drawn(rule: Any, memory: list[Any]) -> list[Any]:
    place = int(np.random.default_rng((rule.seed, 0, 5)).integers(len(memory)))
    return [memory[place]]


def test_an_agreeing_gradient_stays_bit_by_bit(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    stage = stage_of(model, 1)
    (rule,) = retentions.get("agem")(batch_size=2).begin(stage).rules
    learner = Learner(model, None, 64)
    rule(learner, 0)
    memory = gradient_of(learner, rule.plans[0].objective, rule._sources[0], 0)
    for p, g in zip(trained_parameters(model).values(), memory, strict=True):
        p.grad = g.to(p.dtype)
    before = [p.grad.clone() for p in trained_parameters(model).values()]
    assert rule(learner, 0).means()["projection/share"] == 0.0
    after = [p.grad for p in trained_parameters(model).values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_directions_are_orthonormal_and_left_alone(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    method = retentions.get("ogd")(num_directions=4)
    method.end(stage_of(model, 0))
    method.end(stage_of(model, 1))
    gram = np.array([[dot(a, b) for b in method.directions] for a in method.directions])
    assert gram == pytest.approx(np.eye(len(gram)), abs=1e-4)
    assert len(gram) == 8
    draw = torch.Generator().manual_seed(0)
    for p in model.trainable_parameters():
        p.grad = torch.randn(p.shape, generator=draw)
    (rule,) = method.begin(stage_of(model, 2)).rules
    metrics = rule(Learner(model, None, 64), 0).means()
    gradient = [p.grad for p in trained_parameters(model).values()]
    size = dot(gradient, gradient) ** 0.5
    assert all(abs(dot(gradient, v)) < 1e-5 * size for v in method.directions)
    assert 0 < metrics["projection/remaining_norm"] < 1
    again = retentions.get("ogd")()
    again.load_state(method.state())
    assert len(again.directions) == 8
    assert all(
        torch.equal(a, b)
        for x, y in zip(again.directions, method.directions, strict=True)
        for a, b in zip(x, y, strict=True)
    )


def test_without_directions_nothing_changes() -> None:
    gradient = [torch.tensor([1.0, 2.0])]
    assert torch.equal(without(gradient, [])[0], gradient[0])


@pytest.mark.parametrize(
    ("name", "settings"),
    [("agem", {"batch_size": 0}), ("gem", {"buffer_size": 0}), ("ogd", {"num_directions": 0})],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        retentions.get(name)(**settings)
