"""O-LoRA: orthogonality term, merged updates, state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stage_rows import moved

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.registry import retentions
from posttrain.retentions.orthogonal_lora import lora_layers
from posttrain.training.plan import Learner


def logits(model: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(input_ids=torch.tensor([[5, 6, 7, 8]])).logits.clone()


def test_the_function_stays_when_an_update_is_added_to_the_weights(
    lora_model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    method = retentions.get("o_lora")()
    first = stage_of(lora_model, 0)
    assert method.begin(first) is first.plan
    moved(lora_model, 0.1)
    before = logits(lora_model)
    method.end(first)
    torch.testing.assert_close(logits(lora_model), before, rtol=1e-4, atol=1e-5)
    method.begin(stage_of(lora_model, 1))  # a fresh adapter begins at nothing
    torch.testing.assert_close(logits(lora_model), before, rtol=1e-4, atol=1e-5)


def test_the_term_and_its_gradient(lora_model: LanguageModel, stage_of: Callable[..., Any]) -> None:
    method = retentions.get("o_lora")(weight=0.5)
    method.begin(stage_of(lora_model, 0))
    moved(lora_model, 0.1)
    method.end(stage_of(lora_model, 0))
    (rule,) = method.begin(stage_of(lora_model, 1)).rules
    for p in lora_model.trainable_parameters():
        p.grad = None
    value = rule(Learner(lora_model, None, 64), 0).means()["penalty/overlap"]
    expected = 0.0
    for name, module in lora_layers(lora_model):
        a = module.lora_A["default"].weight
        products = method.subspaces[name].double() @ a.detach().double().T
        expected += float(products.abs().sum())
        gradient = 0.5 * (products.sign().T @ method.subspaces[name].double())
        torch.testing.assert_close(a.grad.double(), gradient, rtol=1e-4, atol=1e-6)
    assert value == pytest.approx(expected, rel=1e-5)


def test_training_makes_subspaces_orthogonal(
    lora_model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    def overlap(weight: float) -> float:
        model = pt.load(lora_model.origin.path, dtype="float32", lora=pt.LoRA(r=2))
        method = retentions.get("o_lora")(weight=weight)
        pt.fit(model, method.begin(stage_of(model, 0, learning_rate=1e-2)), steps=2)
        method.end(stage_of(model, 0))
        pt.fit(model, method.begin(stage_of(model, 1, learning_rate=1e-2)), steps=20)
        return sum(
            float((method.subspaces[n] @ m.lora_A["default"].weight.T).abs().sum().detach())
            for n, m in lora_layers(model)
        )

    assert overlap(5.0) < 0.3 * overlap(0.0)


def test_state_brings_base_and_subspaces_back(
    lora_model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    method = retentions.get("o_lora")()
    method.begin(stage_of(lora_model, 0))
    moved(lora_model, 0.1)
    method.end(stage_of(lora_model, 0))
    fresh = pt.load(lora_model.origin.path, dtype="float32", lora=pt.LoRA(r=2))
    again = retentions.get("o_lora")()
    again.load_state(method.state())
    again.restore(stage_of(fresh, 0))
    again.begin(stage_of(fresh, 1))
    method.begin(stage_of(lora_model, 1))
    assert torch.equal(logits(fresh), logits(lora_model))
    for (_, a), (_, b) in zip(lora_layers(fresh), lora_layers(lora_model), strict=True):
        assert torch.equal(a.lora_A["default"].weight, b.lora_A["default"].weight)


def test_a_model_without_lora_is_refused(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError):
        retentions.get("o_lora")().begin(stage_of(model, 0))
    with pytest.raises(ConfigError):
        retentions.get("o_lora")(weight=-1.0)
