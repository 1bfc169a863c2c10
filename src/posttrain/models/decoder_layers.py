"""The parts of Llama-like decoder layers: what code that computes such layers by itself reads them
from.

A layer is of the kind if it is made of nothing but

    x = x + W_o attention(rotate(q), rotate(k), v)      [q; k; v] = W_qkv (rmsnorm(x)) + b, q and k
                                                        normed or not
    x = x + W_down (act(W_gate n) W_up n)               n = rmsnorm(x)

Only classes that are known to compute this are read: many others have parts of the same names and
do more with them, some of it (factors of far positions, dropout) where no comparison at load time
would see it. Whoever reads layers here compares a result with the model's own all the same, as a
later version of transformers may change them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_KNOWN = frozenset(
    (f"transformers.models.{family}.modeling_{family}", f"{name}{part}")
    for family, name in zip(_FAMILIES, ("Llama", "Mistral", "Qwen2", "Qwen3"), strict=True)
    for part in ("Model", "DecoderLayer", "Attention", "MLP", "RMSNorm")
)
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


@dataclass(frozen=True, slots=True)
class LayerParts:
    """A layer's modules. q_norm and k_norm [D] are None where queries and keys are not normed."""

    whole: Any
    attention: Any
    input_norm: Any
    q: Any
    k: Any
    v: Any
    out: Any
    q_norm: Any
    k_norm: Any
    mlp_norm: Any
    gate: Any
    up: Any
    down: Any
    activation: Any

    @property
    def projections(self) -> list[Any]:
        """The seven matrices' modules."""
        return [self.q, self.k, self.v, self.out, self.gate, self.up, self.down]


def read_layers(base: Any) -> list[LayerParts] | None:
    """The layers of a decoder without its head, None where it is not of the kind or has sliding
    windows.
    """
    if set(dict(base.named_children())) != {
        "embed_tokens",
        "layers",
        "norm",
        "rotary_emb",
    } or not _is_known(base, base.norm):
        return None
    if _has_windows(base.config):
        return None
    found = []
    for layer in base.layers:
        parts = _read_layer(layer)
        if parts is None:
            return None
        found.append(parts)
    return found


def _read_layer(layer: Any) -> LayerParts | None:
    if set(dict(layer.named_children())) != {
        "self_attn",
        "mlp",
        "input_layernorm",
        "post_attention_layernorm",
    }:
        return None
    attention, mlp = layer.self_attn, layer.mlp
    if not _is_known(layer, attention, mlp, layer.input_layernorm, layer.post_attention_layernorm):
        return None
    inner, gated = dict(attention.named_children()), dict(mlp.named_children())
    if set(inner) not in (_ATTENTION, _ATTENTION | _HEAD_NORMS) or set(gated) != _MLP:
        return None
    q_norm, k_norm = inner.get("q_norm"), inner.get("k_norm")
    head_norms = [] if q_norm is None else [q_norm, k_norm]
    if not _is_known(*head_norms):
        return None
    if any(norm.weight.shape != (attention.head_dim,) for norm in head_norms):
        return None
    return LayerParts(
        layer,
        attention,
        layer.input_layernorm,
        inner["q_proj"],
        inner["k_proj"],
        inner["v_proj"],
        inner["o_proj"],
        q_norm,
        k_norm,
        layer.post_attention_layernorm,
        gated["gate_proj"],
        gated["up_proj"],
        gated["down_proj"],
        gated["act_fn"],
    )


def has_plain_weights(base: Any) -> bool:
    """Whether all weights are where and as the functions made for such layers expect them: on a
    CPU, all in float32 or all in bfloat16."""
    return {(p.dtype, p.device.type) for p in base.parameters()} in (
        {(torch.float32, "cpu")},
        {(torch.bfloat16, "cpu")},
    )


def _is_known(*modules: Any) -> bool:
    """Whether all are of classes that are known, and none of them runs something else in its
    place.
    """
    return all(
        (type(m).__module__, type(m).__name__) in _KNOWN and "forward" not in vars(m)
        for m in modules
    )


def _has_windows(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) != {"full_attention"}
    return getattr(config, "sliding_window", None) is not None
