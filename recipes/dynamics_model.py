"""Write the tokenizer and the config of the embedded dynamics model: a token per integer below
100 and a small Qwen3.

    python recipes/dynamics_model.py src/posttrain/assets/dynamics

Weights come from recipes/dynamics_model.yaml.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config

SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|unknown|>"]


def write(folder: Path) -> None:
    """Write tokenizer, config and generation config."""
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
    config.save_pretrained(folder)
    GenerationConfig(**ids).save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
