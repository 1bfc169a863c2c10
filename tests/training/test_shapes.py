"""Shapes of decoders, against models that are built from the same config."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from posttrain.errors import ConfigError
from posttrain.training.shapes import SHAPES, Shape, shape_of

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("config", "model"), [(LlamaConfig, LlamaForCausalLM), (Qwen3Config, Qwen3ForCausalLM)]
)
def test_weights_are_those_of_the_model(config: Any, model: Any, tied: bool) -> None:
    """Norms are left out: a thousandth of the weights of a real model."""
    made = config(**SIZES, head_dim=8, tie_word_embeddings=tied)
    with torch.device("meta"):
        hf = model(made)
    matrices = sum(p.numel() for p in hf.parameters() if p.ndim == 2)
    shape = Shape.of(made)
    assert shape.parameters == matrices
    assert shape.norms_heads == (config is Qwen3Config)


def test_well_known_sizes() -> None:
    billions = {name: round(shape.parameters / 1e9, 1) for name, shape in SHAPES.items()}
    assert billions == {
        "qwen3-0.6b": 0.6,
        "qwen3-1.7b": 1.7,
        "qwen3-8b": 8.2,
        "qwen3-32b": 32.8,
        "llama3-70b": 70.6,
    }


def test_keys_and_values_by_hand() -> None:
    """28 layers of 8 heads of 128 keys and as many values, 2 bytes each: 112 KiB per token."""
    assert SHAPES["qwen3-0.6b"].kv_bytes(2) == 2 * 28 * 8 * 128 * 2 == 112 * 1024


def test_activations_of_the_fused_layer_are_what_it_saves() -> None:
    """Counted on the tensors that autograd holds for one layer in float32."""
    from posttrain.data.forest import Forest, TokenSequence, Tree
    from posttrain.models.language_model import LanguageModel

    made = Qwen3Config(**SIZES, head_dim=8)
    model = LanguageModel(Qwen3ForCausalLM(made), None)  # type: ignore[arg-type]
    model.share_trunks()
    ids = torch.arange(40).numpy() % 60
    forest = Forest.pack([Tree.build([TokenSequence(ids, ids > 0)])])
    held: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        weights = {p.untyped_storage().data_ptr() for p in model.hf.parameters()}
        if storage.data_ptr() not in weights and tensor.dtype == torch.float32:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        model.hidden(forest)
    predicted = 40 * Shape.of(made).activation_bytes(4)
    assert predicted == pytest.approx(sum(held.values()), rel=0.15)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match="'qwen3-8'.*'qwen3-8b'"):
        shape_of("qwen3-8")
