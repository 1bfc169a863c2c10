"""Tiny random models of many architectures, and groups of sequences that share trunks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.models.language_model import LanguageModel

SIZES: dict[str, Any] = {
    "vocab_size": 53,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5}
LAYERS = ["sliding_attention", "full_attention"]
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {},
    "Gemma2": {
        "sliding_window": 6,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 1.5,
    },
    "Gemma3Text": {
        "sliding_window": 5,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "Mistral": {"sliding_window": 4},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "Mixtral": {"num_local_experts": 4},
    "Qwen3Moe": dict(num_experts=4, **EXPERTS),
    "GptOss": {"num_local_experts": 4, "sliding_window": 6},
    "Cohere": {"logit_scale": 0.5},
    "Granite": {"logits_scaling": 3.0},
}
UNSHARED = {
    "Mamba": {},
    "Lfm2": {"layer_types": ["conv", "full_attention"]},
    "Bloom": {"n_head": 4, "n_layer": 2},
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def tiny_config(name: str, **changes: Any) -> Any:
    settings = {**SIZES, **{**ARCHITECTURES, **UNSHARED}[name], **changes}
    return getattr(transformers, f"{name}Config")(**settings)


def tiny_hf(name: str, dtype: torch.dtype = torch.float64, **changes: Any) -> Any:
    """A random model whose weights are large enough that attention is far from uniform."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf = transformers.AutoModelForCausalLM.from_config(
            tiny_config(name, **changes), dtype=torch.float32
        )
        for parameter in hf.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return hf.to(dtype).eval()


@pytest.fixture
def tiny() -> Callable[..., LanguageModel]:
    """tiny(architecture, dtype, **config) -> LanguageModel, probed, without a tokenizer."""

    def make(name: str, dtype: torch.dtype = torch.float64, **changes: Any) -> LanguageModel:
        model = LanguageModel(tiny_hf(name, dtype, **changes), None)  # type: ignore[arg-type]
        model.check_head()
        model.share_trunks()
        return model

    return make


@pytest.fixture
def groups() -> list[list[TokenSequence]]:
    """Three levels of branching, a group with a duplicate and a prefix, a lone sequence, and a
    pair.
    """
    draw = np.random.default_rng(7)

    def some(count: int) -> list[int]:
        return draw.integers(0, SIZES["vocab_size"], count).tolist()

    stem, fork, twig = some(9), some(4), some(3)
    deep = [
        stem + some(5),
        stem + fork + some(2),
        stem + fork + twig + some(6),
        stem + fork + twig + some(1),
    ]
    prompt, answer = some(4), some(5)
    same = [prompt + answer, prompt + answer, prompt + answer[:2], prompt + some(7)]
    lists = [deep, same, [some(11)], [prompt[:3] + some(2), prompt[:3] + some(12)]]
    return [
        [
            TokenSequence(np.array(ids), np.arange(len(ids)) >= 2, row=f"{g}.{i}")
            for i, ids in enumerate(group)
        ]
        for g, group in enumerate(lists)
    ]


def plain_logprobs(
    hf: Any, group: list[list[TokenSequence]], temperature: float = 1.0
) -> torch.Tensor:
    """Target log-probabilities by one ordinary forward per sequence, with the model's own
    attention and logits.
    """
    found = []
    for sequence in (s for g in group for s in g):
        ids = torch.tensor(sequence.ids)
        logits = hf(input_ids=ids[None], use_cache=False).logits[0] / temperature
        every = torch.log_softmax(logits, -1)[:-1].gather(-1, ids[1:, None])[:, 0]
        found.append(every[torch.tensor(sequence.loss_mask)[1:]])
    return torch.cat(found)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder on disk: a tiny random Llama with a tokenizer of 50 words and a chat
    template.
    """
    words = {f"w{i}": i for i in range(50)}
    core = Tokenizer(WordLevel(words, unk_token="w2"))
    core.pre_tokenizer = Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="w0", eos_token="w1"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    path = tmp_path / "tiny"
    tiny_hf("Llama", torch.float32).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def forest(groups: list[list[TokenSequence]]) -> Forest:
    """The groups as a forest."""
    return Forest.pack([Tree.build(group, min_shared=1) for group in groups])
