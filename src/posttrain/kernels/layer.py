"""The record of a Llama-like decoder layer, which all code reads that computes such layers itself.

A layer is of the kind if it is made of nothing but

    x = x + W_o attention(rotate(q), rotate(k), v)      [q; k; v] = W_qkv (rmsnorm(x)) + b, q and k
                                                        normed or not
    x = x + W_down (act(W_gate n) W_up n)               n = rmsnorm(x)

Only classes that are known to compute this are read. Many others have parts of the same names and
do more with them, some of it (factors of far positions, dropout) where no comparison at load time
would see it. Whoever reads layers here compares a result with the model's own all the same, as a
later version of transformers may change them.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_KNOWN = frozenset(
    (f"transformers.models.{family}.modeling_{family}", f"{name}{part}")
    for family, name in zip(_FAMILIES, ("Llama", "Mistral", "Qwen2", "Qwen3"), strict=True)
    for part in ("Model", "DecoderLayer", "Attention", "MLP", "RMSNorm")
)
_BASE_PARTS = {"embed_tokens", "layers", "norm", "rotary_emb"}
_LAYER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION_PARTS = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MLP_PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}


class Weights(NamedTuple):
    """A layer's tensors; None for what it does not have.

    With C hidden, I inner and D head sizes, H heads and Hkv heads of keys: q [H D, C], k and v
    [Hkv D, C], out [C, H D], gate and up [I, C], down [C, I]; norms [C], q_norm and k_norm [D].
    """

    input_norm: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    q_bias: Tensor | None
    k_bias: Tensor | None
    v_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None
    out: Tensor
    mlp_norm: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


PROJECTIONS = {
    "q": attrgetter("self_attn.q_proj"),
    "k": attrgetter("self_attn.k_proj"),
    "v": attrgetter("self_attn.v_proj"),
    "out": attrgetter("self_attn.o_proj"),
    "gate": attrgetter("mlp.gate_proj"),
    "up": attrgetter("mlp.up_proj"),
    "down": attrgetter("mlp.down_proj"),
}
"""Where the modules of a layer's matrices are, by their names in `Weights`."""

_READ = {
    "input_norm": attrgetter("input_layernorm.weight"),
    "q_bias": attrgetter("self_attn.q_proj.bias"),
    "k_bias": attrgetter("self_attn.k_proj.bias"),
    "v_bias": attrgetter("self_attn.v_proj.bias"),
    "q_norm": attrgetter("self_attn.q_norm.weight"),
    "k_norm": attrgetter("self_attn.k_norm.weight"),
    "mlp_norm": attrgetter("post_attention_layernorm.weight"),
}
"""Where the layer's other parameters are."""


class Epsilons(NamedTuple):
    """What the norms add to the mean square; 0 where there is no such norm."""

    input: float
    q: float
    k: float
    mlp: float


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer: its module, and what the computation needs beside tensors.

    Attributes:
        number: its place, from 0. module: the transformers layer. head_dim: D. scale: of the
        scores. norms_heads: whether queries and keys are normed.
    """

    number: int
    module: Any
    head_dim: int
    scale: float
    norms_heads: bool
    eps: Epsilons

    @property
    def activation(self) -> Any:
        """The activation of the MLP."""
        return self.module.mlp.act_fn

    def projections(self) -> dict[str, Any]:
        """The modules of the seven matrices, by their names in `Weights`."""
        return {name: read(self.module) for name, read in PROJECTIONS.items()}

    def weights(self, matrices: dict[str, Tensor] | None = None) -> Weights:
        """The parameters as they are now.

        Args:
            matrices: what stands in for the seven matrices, by name; the modules' own by default.
        """
        if matrices is None:
            matrices = {name: module.weight for name, module in self.projections().items()}
        absent = () if self.norms_heads else _HEAD_NORMS
        others = {
            name: None if name in absent else read(self.module) for name, read in _READ.items()
        }
        return Weights(**matrices, **others)  # type: ignore[arg-type]


def read_layers(base: Any) -> list[Layer] | None:
    """The layers of a decoder without its head, None where it is not of the kind or has sliding
    windows.
    """
    if set(dict(base.named_children())) != _BASE_PARTS or not _is_known(base, base.norm):
        return None
    if _has_windows(base.config):
        return None
    layers = []
    for number, module in enumerate(base.layers):
        layer = _read_layer(number, module)
        if layer is None:
            return None
        layers.append(layer)
    return layers


def _read_layer(number: int, module: Any) -> Layer | None:
    if set(dict(module.named_children())) != _LAYER_PARTS:
        return None
    attention, mlp = module.self_attn, module.mlp
    norms = [module.input_layernorm, module.post_attention_layernorm]
    if not _is_known(module, attention, mlp, *norms):
        return None
    inner = dict(attention.named_children())
    if set(inner) not in (_ATTENTION_PARTS, _ATTENTION_PARTS | _HEAD_NORMS):
        return None
    if set(dict(mlp.named_children())) != _MLP_PARTS:
        return None
    head_norms = [inner[name] for name in ("q_norm", "k_norm") if name in inner]
    if not _is_known(*head_norms):
        return None
    if any(norm.weight.shape != (attention.head_dim,) for norm in head_norms):
        return None
    of_input, of_mlp = (float(norm.variance_epsilon) for norm in norms)
    of_q, of_k = [float(norm.variance_epsilon) for norm in head_norms] or [0.0, 0.0]
    eps = Epsilons(of_input, of_q, of_k, of_mlp)
    scale = float(attention.scaling)
    return Layer(number, module, attention.head_dim, scale, bool(head_norms), eps)


def has_plain_weights(base: Any) -> bool:
    """Whether all weights are on a CPU, and all in float32 or all in bfloat16."""
    return {(p.dtype, p.device.type) for p in base.parameters()} in (
        {(torch.float32, "cpu")},
        {(torch.bfloat16, "cpu")},
    )


def _is_known(*modules: Any) -> bool:
    """Whether all are of known classes, and none has a `forward` of its own in its place."""
    return all(
        (type(m).__module__, type(m).__name__) in _KNOWN and "forward" not in vars(m)
        for m in modules
    )


def _has_windows(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return set(kinds) != {"full_attention"}
    return getattr(config, "sliding_window", None) is not None
