"""Tiny random models whose tokens are commas and numbers."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from posttrain.models import attention
from posttrain.models.language_model import LanguageModel


def model_of(numbers: list[str], pattern: str, **config: Any) -> LanguageModel:
    vocab = {word: i for i, word in enumerate(["?", ",", *numbers])}
    plain = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="?")
    attention.register()
    torch.manual_seed(0)
    settings = {
        "vocab_size": len(vocab),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "initializer_range": 0.6,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        **config,
    }
    hf = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**settings)).float()
    hf.set_attn_implementation(attention.NAME)
    model = LanguageModel(hf, tokenizer)
    model.shares_trunks = True
    return model.eval()
