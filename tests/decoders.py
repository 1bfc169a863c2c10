"""Small random language models of several kinds, without ids that end a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from posttrain.models.language_model import LanguageModel

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
}


def build(kind: str) -> LanguageModel:
    """llama, qwen3, gemma2, gpt2 or mamba, its trunks shared where it can."""
    torch.manual_seed(0)
    models: dict[str, Any] = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=16)),
        "gemma2": lambda: Gemma2ForCausalLM(
            Gemma2Config(**SIZES, head_dim=16, sliding_window=8, query_pre_attn_scalar=16)
        ),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(
                vocab_size=97,
                n_embd=64,
                n_layer=3,
                n_head=4,
                n_positions=96,
                bos_token_id=1,
                eos_token_id=2,
            )
        ),
        "mamba": lambda: MambaForCausalLM(
            MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4)
        ),
    }
    hf = models[kind]().eval()
    hf.generation_config.eos_token_id = None
    with torch.no_grad():
        for p in hf.parameters():
            if p.ndim > 1:
                p.mul_(1.5)  # away from uniform, so that greedy choices are clear
    model = LanguageModel(hf, None)  # type: ignore[arg-type]
    model.share_trunks()
    return model


def with_lora(decoder: Callable[[str], LanguageModel]) -> LanguageModel:
    """The llama with adapters that change what it computes."""
    from posttrain.config import LoraConfig
    from posttrain.models.adapters import add_lora

    hf = add_lora(decoder("llama").hf, LoraConfig(r=2), seed=0)
    with torch.no_grad():
        for name, p in hf.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3)
    return LanguageModel(hf, None)  # type: ignore[arg-type]


def changed(model: LanguageModel, seed: int = 3) -> None:
    """Other weights, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.hf.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
