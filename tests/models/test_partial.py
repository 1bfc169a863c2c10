"""Training some of a model's own weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.config import AdapterConfig
from posttrain.errors import ModelError
from posttrain.models.load import load_model


def test_own_weights_alone(folder: Path) -> None:
    last = load_model(folder, adapter=AdapterConfig("partial", last_layers=1, modules=["lm_head"]))
    trained = {n for n, p in last.hf.named_parameters() if p.requires_grad}
    assert trained == {
        n for n, _ in last.hf.named_parameters() if "layers.1." in n or "lm_head" in n
    }
    with pytest.raises(ModelError, match="has no biases, so bitfit trains nothing"):
        load_model(folder, adapter=AdapterConfig("bitfit"))
    with pytest.raises(ModelError, match=r"no parameter's name holds 'q_prj'.*q_proj"):
        load_model(folder, adapter=AdapterConfig("partial", modules=["q_prj"]))
    with pytest.raises(ModelError, match=r"adapter.last_layers: 9 of 2 layers"):
        load_model(folder, adapter=AdapterConfig("partial", last_layers=9))


def test_bitfit_trains_the_biases(tmp_path: Path, folder: Path) -> None:
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=53,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "qwen")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "qwen")
    model = load_model(tmp_path / "qwen", adapter=AdapterConfig("bitfit"))
    assert [n.rpartition(".")[2] for n, p in model.hf.named_parameters() if p.requires_grad] == [
        "bias"
    ] * 3
