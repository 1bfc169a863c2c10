"""Write the start of the embedded dynamics model: a token per integer below 100 and a small Qwen3.

    python recipes/dynamics_model.py runs/dynamics_start
    posttrain run recipes/dynamics_model.yaml

All weights are random but the embeddings of numbers, which begin as waves of the number, so that
numbers which are close have embeddings which are close.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|unknown|>"]


def waves(width: int) -> torch.Tensor:
    """Embeddings [100, width] of norm 1: cosines and sines of the number, of 200 to 5 per wave."""
    periods = torch.logspace(math.log10(200), math.log10(5), width // 2)
    angles = 2 * math.pi * torch.arange(100)[:, None] / periods
    return torch.cat([angles.cos(), angles.sin()], 1) / math.sqrt(width // 2)


def write(folder: Path) -> None:
    """Write weights, tokenizer, config and generation config."""
    words = [*SPECIAL, ",", *(f"{n:02d}" for n in range(100))]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d\d|,"), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", vocab["<|begin|>"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|unknown|>",
        model_max_length=264,
        clean_up_tokenization_spaces=False,
    )
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = Qwen3Config(
        vocab_size=len(vocab),
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=264,
        tie_word_embeddings=True,
        architectures=["Qwen3ForCausalLM"],
        **ids,
    )
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        model.get_input_embeddings().weight[vocab["00"] :] = waves(config.hidden_size)
    model.save_pretrained(folder)
    GenerationConfig(**ids).save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
