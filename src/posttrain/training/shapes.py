"""Shapes of decoders: how many weights they have, what a pass computes and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from posttrain.errors import ConfigError, nearest


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama-like decoder: layers, hidden size C, inner size I, H heads and Hkv heads of keys of
    size D, vocabulary V.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = True
    norms_heads: bool = False

    @classmethod
    def of(cls, config: Any) -> Shape:
        """From a transformers config."""
        hidden, heads = config.hidden_size, config.num_attention_heads
        return cls(
            layers=config.num_hidden_layers,
            hidden=hidden,
            inner=getattr(config, "intermediate_size", None) or 4 * hidden,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or hidden // heads,
            vocab=config.vocab_size,
            tied=bool(getattr(config, "tie_word_embeddings", False)),
            norms_heads=getattr(config, "model_type", "").startswith("qwen3"),
        )

    @property
    def matrices(self) -> int:
        """Weights of the layers' matrices, which every token meets."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        return self.layers * (attention + 3 * self.hidden * self.inner)

    @property
    def head(self) -> int:
        """Weights of the vocabulary projection, which every target meets."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.matrices + self.head * (1 if self.tied else 2)

    def kv_bytes(self, size: int) -> int:
        """Keys and values of one token, of `size` bytes per number."""
        return 2 * self.layers * self.kv_heads * self.head_dim * size

    def forward_operations(self, tokens: float, targets: float, context: float) -> float:
        """Of one pass. context: tokens that a token attends to, on average."""
        attention = 4 * self.layers * self.heads * self.head_dim * context
        return tokens * (2 * self.matrices + attention) + 2 * targets * self.head

    def activation_bytes(self, size: int) -> float:
        """What a layer keeps of one token for the backward pass, by all layers.

        size 4: the fused layer of `kernels.fused` in float32. size 2: transformers' own layers in
        bfloat16, whose norms keep float32 copies.
        """
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        if size == 4:
            of_heads = (3 * q + 3 * kv) if self.norms_heads else (2 * q + 2 * kv)
            numbers = 2 * self.hidden + of_heads + 2 * self.inner + self.heads + 2
            return 4.0 * self.layers * numbers
        half = 16 * self.hidden + 12 * q + 10 * kv + 8 * self.inner
        return float(self.layers * half)


SHAPES: dict[str, Shape] = {
    "qwen3-0.6b": Shape(28, 1024, 3072, 16, 8, 128, 151936, True, True),
    "qwen3-1.7b": Shape(28, 2048, 6144, 16, 8, 128, 151936, True, True),
    "qwen3-8b": Shape(36, 4096, 12288, 32, 8, 128, 151936, False, True),
    "qwen3-32b": Shape(64, 5120, 25600, 64, 8, 128, 151936, False, True),
    "llama3-70b": Shape(80, 8192, 28672, 64, 8, 128, 128256, False),
}
"""Shapes of well-known models, from their published configs."""


def shape_of(name: str) -> Shape:
    """A shape by its name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name not in SHAPES:
        raise ConfigError(f"shape {name!r} is not known: {nearest(name, SHAPES)}")
    return SHAPES[name]
