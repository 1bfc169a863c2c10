"""Layers as one function against transformers' own: values, every gradient, finite differences,
half precision, and where it must not run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.kernels import fused
from posttrain.kernels.fused import FusedTrunk, fused_trunk
from posttrain.kernels.layer import read_layers
from posttrain.models.attention import ForestPlan
from posttrain.models.language_model import LanguageModel

Build = Callable[[str], LanguageModel]


def forest() -> Forest:
    """A branching tree with a run of its own kernel call, short runs that are batched, and a
    chain.
    """
    draw = np.random.default_rng(0)

    def sequence(*ids: int) -> TokenSequence:
        return TokenSequence(np.array(ids), np.array([False] + [True] * (len(ids) - 1)))

    branches = [sequence(1, 2, 3, *draw.integers(0, 90, n)) for n in (5, 1, 60, 6)]
    return Forest.pack([Tree.build(branches), Tree.build([sequence(*draw.integers(0, 90, 30))])])


def run(model: LanguageModel) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Hidden states and the gradients of all parameters for a fixed weighting of them."""
    model.hf.zero_grad()
    hidden = model.hidden(forest())
    weights = torch.linspace(-1, 1, hidden.numel()).view_as(hidden)
    (hidden * weights).sum().backward()
    return hidden.detach(), {
        n: p.grad.clone() for n, p in model.hf.named_parameters() if p.grad is not None
    }


def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers that are computed as one function from now on, by number."""
    calls: list[int] = []
    apply = fused._FusedLayer.apply

    def noted(*given: Any) -> Any:
        calls.append(given[1].layer.number)
        return apply(*given)

    monkeypatch.setattr(fused._FusedLayer, "apply", noted)
    return calls


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_states_and_gradients_are_the_model_s_own(
    llama_like: Build, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama_like(family)
    calls = fused_calls(monkeypatch)
    hidden, grads = run(model)
    assert calls == [0, 1, 2]
    model.uses_kernels = False
    expected, expected_grads = run(model)
    assert calls == [0, 1, 2]
    torch.testing.assert_close(hidden, expected, rtol=1e-5, atol=2e-5)
    assert grads.keys() == expected_grads.keys() and len(grads) >= 29
    for name, grad in grads.items():
        gap = (grad - expected_grads[name]).abs().max() / expected_grads[name].abs().max()
        assert gap < 2e-5, name


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_gradients_agree_with_finite_differences(llama_like: Build, family: str) -> None:
    """The same functions in float64, where differences are exact to eight digits."""
    model = llama_like(family)
    base: Any = model.hf.double().model
    trees = forest()
    layers = read_layers(base)
    assert layers is not None
    embedded = torch.randn(
        len(trees.tokens), 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    names = [
        "layers.1.input_layernorm.weight",
        "layers.1.post_attention_layernorm.weight",
        "layers.1.self_attn.q_proj.weight",
        "layers.1.self_attn.k_proj.weight",
        "layers.1.self_attn.v_proj.weight",
        "layers.1.self_attn.o_proj.weight",
        "layers.1.mlp.gate_proj.weight",
        "layers.1.mlp.up_proj.weight",
        "layers.1.mlp.down_proj.weight",
        *(
            ["layers.1.self_attn.q_proj.bias", "layers.1.self_attn.k_proj.bias"]
            if family == "qwen2"
            else []
        ),
        *(
            ["layers.1.self_attn.q_norm.weight", "layers.1.self_attn.k_norm.weight"]
            if family == "qwen3"
            else []
        ),
    ]
    base.norm = torch.nn.Identity()  # transformers' norm rounds to float32

    def value() -> torch.Tensor:
        hidden = FusedTrunk(base, layers)(embedded, trees.positions, ForestPlan(trees))
        return (
            hidden * torch.linspace(-1, 1, hidden.numel(), dtype=torch.float64).view_as(hidden)
        ).sum()

    embedded.requires_grad_(True)
    value().backward()
    for where in [embedded, *(base.get_parameter(name) for name in names)]:
        assert where.grad is not None
        direction = torch.randn(
            where.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
        )
        found = []
        with torch.no_grad():
            for sign in (1, -1):
                where.add_(direction, alpha=sign * 1e-5)
                found.append(float(value()))
                where.sub_(direction, alpha=sign * 1e-5)
        difference = (found[0] - found[1]) / 2e-5
        assert difference == pytest.approx(
            float((where.grad * direction).sum()), rel=1e-6, abs=1e-6
        )


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_bfloat16_is_as_near_to_exact_as_the_model_s_own_modules(
    llama_like: Build, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same rounded weights in float64: states and gradients of both, by the root of
    their mean squared error.
    """
    model = llama_like(family)
    model.hf.bfloat16()
    calls = fused_calls(monkeypatch)
    hidden, grads = run(model)
    assert calls == [0, 1, 2] and hidden.dtype == torch.bfloat16
    model.uses_kernels = False
    theirs, their_grads = run(model)
    model.hf.double()
    exact, exact_grads = run(model)
    assert calls == [0, 1, 2] and grads.keys() == their_grads.keys() == exact_grads.keys()

    def error(found: torch.Tensor, expected: torch.Tensor) -> float:
        return float(
            (found.double() - expected).square().mean().sqrt() / expected.square().mean().sqrt()
        )

    assert error(hidden, exact) < min(0.03, 1.1 * error(theirs, exact))
    ours, modules = (
        torch.tensor([error(g[name], exact_grads[name]) for name in grads])
        for g in (grads, their_grads)
    )
    assert ours.max() < 1.2 * modules.max() and ours.mean() < 1.05 * modules.mean()


@pytest.mark.parametrize(
    "family", ["windows", "gemma2", "granite", "ministral3", "output bias", "mlp bias", "gelu"]
)
def test_other_layers_are_left_to_the_model(
    llama_like: Build, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama_like(family)
    calls = fused_calls(monkeypatch)
    run(model)
    assert calls == []


@pytest.mark.parametrize(
    ("family", "trained"),
    [
        ("qwen3", ["layers.2.", "layers.1.mlp.up_proj.weight"]),
        ("qwen2", ["layers.1.self_attn.k_proj.weight"]),
        ("qwen2", ["layers.1.self_attn.v_proj"]),
        ("qwen2", ["q_proj.bias", "v_proj.bias"]),
    ],
)
def test_frozen_weights_get_no_gradient_and_change_none(
    llama_like: Build, family: str, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layer freezing: what is trained gets what it gets when all is trained."""
    model = llama_like(family)
    _, every = run(model)
    chosen = {name for name in every if any(part in name for part in trained)}
    for name, p in model.hf.named_parameters():
        p.requires_grad_(name in chosen)
    calls = fused_calls(monkeypatch)
    _, some = run(model)
    assert (
        calls == [0, 1, 2]
        and some.keys() == chosen
        and len(some) == {"qwen3": 12}.get(family, len(some)) > 0
    )
    for name, grad in some.items():
        torch.testing.assert_close(grad, every[name])


def test_it_steps_aside_for_what_it_does_not_compute(llama_like: Build) -> None:
    """Checkpointing and dropout in training mode, hooks, adapters, float16, mixed types; and
    comes back where they go.
    """
    model = llama_like("llama")
    base: Any = model.hf.model
    plan = ForestPlan(forest())
    assert fused_trunk(base, plan) is not None
    model.train()
    assert fused_trunk(base, plan) is not None
    base.layers[1].gradient_checkpointing = True
    assert fused_trunk(base, plan) is None
    base.layers[1].gradient_checkpointing = False
    base.layers[1].self_attn.attention_dropout = 0.1
    assert fused_trunk(base, plan) is None
    base.layers[1].self_attn.attention_dropout = 0.0
    hook = base.layers[2].mlp.register_forward_hook(lambda *given: None)
    assert fused_trunk(base, plan) is None
    hook.remove()
    assert fused_trunk(base, plan) is not None
    get_peft_model(model.hf, LoraConfig(target_modules=["q_proj"], r=2))
    assert fused_trunk(base, plan) is None
    assert fused_trunk(llama_like("llama").hf.half().model, plan) is None
    mixed = llama_like("llama").hf.bfloat16().model
    mixed.norm.float()
    assert fused_trunk(mixed, plan) is None
