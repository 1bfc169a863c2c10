"""One decoding step of Llama-like decoders on a CPU, its hidden states held as columns.

With few rows a step is not bound by arithmetic but by how often small things are started: a layer
of transformers makes seven matrix products and about thirty small passes. Here the projections that
read the same input are one product, weights of norms are multiplied into the products behind them,
and hidden states are the columns of [C, R], so that every product is weight times states, the order
in which the library for matrix products is fastest with few rows:

    n(x) = x / sqrt(mean(x^2) + eps)
    [q; k; v] = W_qkv n(x)      x = x + W_o attention(rotate(q), rotate(k), v)
    [g; u] = W_gu n(x)          x = x + W_down (act(g) u)

In bfloat16 the products and the hidden states are of that type and all else is in float32, as in
`kernels.fused`. The weights of norms stay where they are then, as their product with others would
be rounded once more.

It stands in for the model's own step only where a comparison of both, at every new set of weights,
gives the same states (`engines.stepping`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from posttrain.kernels.layer import Layer, Weights, has_plain_weights, read_layers
from posttrain.kernels.products import fast_products, kernel_products, wide, within

# Joined weights are a second copy of most of a model, and large products gain little.
_MAX_BYTES = 1 << 30


class RowAttention(Protocol):
    """The attention of one new token per row over all that came before it."""

    def attend_one(
        self, query: Tensor, key: Tensor, value: Tensor, layer: int, scale: float
    ) -> Tensor:
        """query [R, H, D], key and value [R, Hkv, D] -> [R, H, D]; keys and values are kept."""
        ...


@dataclass(frozen=True, slots=True)
class _Joined:
    """A layer's tensors joined for decoding: qkv [(H + 2 Hkv) D, C] and its bias [.., 1],
    gate_up [2 I, C].

    norms: weights [C, 1] of the norms of the input and of the MLP, None where they are multiplied
    into the matrices behind them. norm_qk: [H + Hkv, D, 1], the weights of the norms of queries and
    keys, None without.
    """

    layer: Layer
    heads: int
    kv_heads: int
    norms: tuple[Tensor | None, Tensor | None]
    qkv: Tensor
    qkv_bias: Tensor | None
    norm_qk: Tensor | None
    out: Tensor
    gate_up: Tensor
    down: Tensor


class ColumnDecoder:
    """The decoder of a model for one new token per row. Made by `column_decoder`; it holds the
    weights as they were then.
    """

    def __init__(self, base: Any, layers: list[_Joined]) -> None:
        self._base = base
        self._layers = layers

    @within(fast_products)
    def step(self, tokens: Tensor, positions: Tensor, plan: RowAttention) -> Tensor:
        """Last hidden states [R, C] (column-major) of one new token per row, tokens and positions
        [R].
        """
        x = self._base.embed_tokens(tokens).t().contiguous()
        cos, sin = (wide(part[0].t()) for part in self._base.rotary_emb(x, positions[None]))
        for joined in self._layers:
            layer = joined.layer
            mixed = plan.attend_one(*_heads(joined, x, cos, sin), layer.number, layer.scale)
            x.addmm_(joined.out, mixed.flatten(1).t().to(x.dtype))
            inner = _normed(x, layer.eps.mlp, joined.norms[1])
            gate, up = (joined.gate_up @ inner).chunk(2)
            x.addmm_(joined.down, layer.activation(gate).mul_(up))
        norm = self._base.norm
        return _normed(x, norm.variance_epsilon, norm.weight[:, None]).t()


@within(kernel_products)
def column_decoder(base: Any) -> ColumnDecoder | None:
    """The decoder of a model with the weights as they are now, to be compared with the model's own
    step before it is used.

    None where it is not of the kind (norm before attention and before a gated MLP, no bias behind,
    rotary positions, no sliding windows), not in float32 or bfloat16 on a CPU, or too large.
    """
    if not has_plain_weights(base):
        return None
    if sum(p.numel() * p.element_size() for p in base.parameters()) > _MAX_BYTES:
        return None
    layers = []
    for layer in read_layers(base) or []:
        weights = _merged_weights(layer)
        if weights is None:
            return None
        layers.append(_joined(layer, weights))
    return ColumnDecoder(base, layers) if layers else None


def weights_state(model: Any) -> list[object]:
    """What a column decoder is made of, for comparison with a later state: which weights there
    are, how often they were written, and which adapters are on.
    """
    weights = [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters()]
    adapted: list[Any] = [
        m for m in model.modules() if hasattr(m, "base_layer") and hasattr(m, "disable_adapters")
    ]
    return [*weights, *((tuple(m.active_adapters), m.disable_adapters) for m in adapted)]


def _heads(joined: _Joined, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries [R, H, D] and keys, and values [R, Hkv, D], of hidden states [C, R]; cos
    and sin [D, R].
    """
    eps = joined.layer.eps
    depth, num_rotated = len(cos), joined.heads + joined.kv_heads
    projected = wide(joined.qkv @ _normed(x, eps.input, joined.norms[0]))
    if joined.qkv_bias is not None:
        projected += joined.qkv_bias
    projected = projected.view(-1, depth, x.shape[1])
    pairs = projected[:num_rotated]
    if joined.norm_qk is not None:
        root = torch.rsqrt(pairs.square().mean(1, keepdim=True).add_(eps.q))
        pairs = pairs * root * joined.norm_qk
    half = depth // 2
    swapped = torch.cat([-pairs[:, half:], pairs[:, :half]], 1)
    rotated = (pairs * cos).addcmul_(swapped, sin).permute(2, 0, 1)
    values = projected[num_rotated:].permute(2, 0, 1)
    return rotated[:, : joined.heads], rotated[:, joined.heads :], values


def _normed(x: Tensor, eps: float, weight: Tensor | None) -> Tensor:
    """Columns of x [C, R] over their root mean square, times the weight of the norm if there is
    one.
    """
    widened = wide(x)
    normed = (widened * torch.rsqrt(widened.square().mean(0).add_(eps))).to(x.dtype)
    return normed if weight is None else normed * weight


def _joined(layer: Layer, w: Weights) -> _Joined:
    """A layer's weights as `ColumnDecoder.step` multiplies with them."""
    qkv, gate_up = torch.cat([w.q, w.k, w.v]), torch.cat([w.gate, w.up])
    norms: tuple[Tensor | None, Tensor | None] = (None, None)
    if qkv.dtype == torch.bfloat16:
        norms = (w.input_norm[:, None], w.mlp_norm[:, None])
    else:
        qkv, gate_up = qkv * w.input_norm, gate_up * w.mlp_norm
    depth = layer.head_dim
    heads, kv_heads = len(w.q) // depth, len(w.k) // depth
    norm_qk = None
    if w.q_norm is not None and w.k_norm is not None:
        of_heads = [w.q_norm.expand(heads, depth), w.k_norm.expand(kv_heads, depth)]
        norm_qk = torch.cat(of_heads)[..., None]
    biases = [bias for bias in (w.q_bias, w.k_bias, w.v_bias) if bias is not None]
    qkv_bias = torch.cat(biases)[:, None] if biases else None
    return _Joined(layer, heads, kv_heads, norms, qkv, qkv_bias, norm_qk, w.out, gate_up, w.down)


def _merged_weights(layer: Layer) -> Weights | None:
    """A layer's weights without gradient, those of adapters added; None where the layer multiplies
    or adds something that `ColumnDecoder.step` does not.
    """
    matrices = {}
    projections = layer.projections()
    for name, module in projections.items():
        matrix = _merged_matrix(module)
        if matrix is None:
            return None
        matrices[name] = matrix
    if any(projections[name].bias is not None for name in ("out", "gate", "up", "down")):
        return None
    if len({projections[name].bias is None for name in "qkv"}) > 1:
        return None
    weights = layer.weights(matrices)
    return Weights(*(None if w is None else w.detach() for w in weights))  # type: ignore[arg-type]


def _merged_matrix(module: Any) -> Tensor | None:
    """The matrix [out, in] that a linear layer multiplies with; of one with plain LoRA, the sum of
    its own and those of its adapters.
    """
    if type(module) is nn.Linear:
        return module.weight.detach()
    if (type(module).__module__, type(module).__name__) != ("peft.tuners.lora.layer", "Linear"):
        return None
    matrix = _merged_matrix(module.base_layer)
    if matrix is None or module.disable_adapters or module.merged:
        return matrix
    # Variants (DoRA and others) are close to the sum, so that a comparison would not always show
    # the difference; nor would it show that small adapters vanish in the rounding of half
    # precision.
    has_bias = any(up.bias is not None for up in module.lora_B.values())
    if matrix.dtype != torch.float32 or module.lora_variant or has_bias:
        return None
    matrix = matrix.clone()
    for name in module.active_adapters:
        if name in module.lora_A:
            matrix += module.get_delta_weight(name).detach()
    return matrix
