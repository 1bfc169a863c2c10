"""Random-weights Qwen3 models, random rows, and what the device can do: for the GPU benchmark."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from posttrain.data.forest import TokenSequence
from posttrain.models.language_model import LanguageModel

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 16,
    },
    "0.6b": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    },
    "1.7b": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    },
}


@dataclass(frozen=True)
class Sizes:
    """rows: of an SFT step, pairs of a DPO step, prompts of a GRPO step, all of `prompt` tokens;
    completions are exponential with mean and limit `completion` and four times that, and for GRPO
    `completion` long in groups of `group`. decode_rows: rows that decode side by side,
    `decode_tokens` each. conversations: that begin with the same `trunk` tokens and have `turns`
    turns of `decode_tokens`."""

    rows: int = 64
    prompt: int = 128
    completion: int = 256
    group: int = 8
    decode_rows: tuple[int, ...] = (1, 8, 64, 256)
    micro_tokens: int = 16384
    decode_tokens: int = 128
    conversations: int = 16
    turns: int = 4
    trunk: int = 1024

    @classmethod
    def of(cls, shape: str) -> Sizes:
        """What a shape is measured with; a toy's are toy sizes."""
        return cls(2, 8, 6, 2, (1, 4), 64, 6, 2, 2, 70) if shape == "tiny" else cls()


def make_model(shape: str, device: str) -> LanguageModel:
    """Random weights, bfloat16 on a GPU and float32 on a CPU."""
    sizes = {
        "num_key_value_heads": SHAPES[shape]["num_attention_heads"] // 2,
        "head_dim": 128,
        **SHAPES[shape],
    }
    vocab = 512 if shape == "tiny" else 151936
    config = Qwen3Config(
        vocab_size=vocab, tie_word_embeddings=True, max_position_embeddings=4096, **sizes
    )  # type: ignore[arg-type]
    torch.manual_seed(0)
    with torch.device(device):
        hf = Qwen3ForCausalLM(config).to(torch.bfloat16 if device == "cuda" else torch.float32)
    hf.generation_config.eos_token_id = None
    model = LanguageModel(hf, None)  # type: ignore[arg-type]
    model.share_trunks()
    if not model.shares_trunks:
        raise SystemExit(f"the model does not run as a forest: {model.why_unshared}")
    return model


def random_groups(kind: str, sizes: Sizes, vocab: int, steps: int) -> list[list[TokenSequence]]:
    """Rows of SFT (groups of one) or pairs of DPO."""
    draw = np.random.default_rng(0)
    groups = []
    for _ in range(sizes.rows * steps):
        prompt = draw.integers(0, vocab, sizes.prompt)
        group = []
        for _ in range(2 if kind == "dpo" else 1):
            length = int(np.clip(draw.exponential(sizes.completion), 1, 4 * sizes.completion))
            ids = np.concatenate([prompt, draw.integers(0, vocab, length)])
            group.append(TokenSequence(ids, np.arange(len(ids)) >= sizes.prompt))
        groups.append(group)
    return groups


def arithmetic(model: LanguageModel) -> tuple[int, int]:
    """Weights that every token meets, and those of the vocabulary projection."""
    head = model.head.weight.numel()
    return sum(p.numel() for p in model.hf.parameters() if p.ndim == 2) - head, head


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def best_rate(work: Callable[[], Any], amount: float, device: torch.device) -> float:
    """amount / seconds of the fastest of five runs."""
    work()
    found = []
    for _ in range(5):
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        found.append(amount / (time.perf_counter() - started))
    return max(found)


def peak_mib(device: torch.device) -> float:
    """Most memory held on the device; of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def limits(device: torch.device, tiny: bool) -> tuple[float, float]:
    """GFLOP/s of large matrix products in the models' precision, and GB/s of a copy (bytes read
    and written).
    """
    size = 256 if tiny else 8192
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    block = torch.zeros(1 << (20 if tiny else 30), dtype=torch.uint8, device=device)
    other = torch.empty_like(block)
    return best_rate(lambda: a @ a, 2 * size**3 / 1e9, device), best_rate(
        lambda: other.copy_(block), 2 * len(block) / 1e9, device
    )
