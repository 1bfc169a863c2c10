"""What is read of a layer, and which layers are left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from posttrain.kernels.layer import Weights, has_plain_weights, read_layers
from posttrain.models.language_model import LanguageModel

Build = Callable[[str], LanguageModel]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_record_holds_every_parameter_of_its_layer(llama_like: Build, family: str) -> None:
    base: Any = llama_like(family).base
    layers = read_layers(base)
    assert layers is not None and [layer.number for layer in layers] == [0, 1, 2]
    for layer, module in zip(layers, base.layers, strict=True):
        weights = layer.weights()
        tensors = {id(w) for w in weights if w is not None}
        assert tensors == {id(p) for p in module.parameters()}
        assert weights.gate is module.mlp.gate_proj.weight
        assert weights.mlp_norm is module.post_attention_layernorm.weight
        assert (weights.q_bias is None) == (family != "qwen2")
        assert (weights.q_norm is None) == (layer.norms_heads is False) == (family != "qwen3")
        assert layer.scale == layer.head_dim**-0.5
        assert layer.eps.input == module.input_layernorm.variance_epsilon
        assert bool(layer.eps.q) == layer.norms_heads


def test_matrices_may_be_replaced(llama_like: Build) -> None:
    layers = read_layers(llama_like("qwen3").base)
    assert layers is not None
    matrices = {name: torch.zeros(1) for name in layers[0].projections()}
    weights = layers[0].weights(matrices)
    replaced = {name for name in Weights._fields if getattr(weights, name) is matrices.get(name)}
    assert replaced >= set(matrices) and weights.input_norm.any()


@pytest.mark.parametrize("family", ["windows", "gemma2", "granite", "ministral3"])
def test_other_kinds_have_no_record(llama_like: Build, family: str) -> None:
    assert read_layers(llama_like(family).base) is None


def test_a_layer_that_runs_something_else_has_no_record(llama_like: Build) -> None:
    base: Any = llama_like("llama").base
    base.layers[1].mlp.forward = lambda x: x
    assert read_layers(base) is None


def test_weights_of_one_type_on_a_cpu(llama_like: Build) -> None:
    hf = llama_like("llama").hf
    assert has_plain_weights(hf) and has_plain_weights(hf.bfloat16())
    hf.model.norm.float()
    assert not has_plain_weights(hf) and not has_plain_weights(hf.half())
