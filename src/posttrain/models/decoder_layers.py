"""The parts of Llama-like decoder layers: what code that computes such layers by itself reads them from.

A layer is of the kind if it is made of nothing but

    x = x + W_o attention(rotate(q), rotate(k), v)      [q; k; v] = W_qkv (rmsnorm(x)) + b, q and k normed or not
    x = x + W_down (act(W_gate n) W_up n)               n = rmsnorm(x)

Parts are known by their names, so a model may still compute something else with them (Granite's multipliers). Whoever reads
layers here compares a result with the model's own before relying on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    """The layers of a decoder without its head, None where it is not of the kind or has sliding windows."""
    if set(dict(base.named_children())) != {"embed_tokens", "layers", "norm", "rotary_emb"} or not _is_norm(base.norm):
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
    if set(dict(layer.named_children())) != {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}:
        return None
    attention, mlp = layer.self_attn, layer.mlp
    inner, gated = dict(attention.named_children()), dict(mlp.named_children())
    if set(inner) not in (_ATTENTION, _ATTENTION | _HEAD_NORMS) or set(gated) != _MLP:
        return None
    q_norm, k_norm = inner.get("q_norm"), inner.get("k_norm")
    head_norms = [] if q_norm is None else [q_norm, k_norm]
    if not all(map(_is_norm, [layer.input_layernorm, layer.post_attention_layernorm, *head_norms])):
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


def _is_norm(module: Any) -> bool:
    return type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")


def _has_windows(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) != {"full_attention"}
    return getattr(config, "sliding_window", None) is not None
