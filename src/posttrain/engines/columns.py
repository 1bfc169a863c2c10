"""One decoding step of Llama-like decoders on a CPU, its hidden states held as columns.

With few rows a step is not bound by arithmetic but by how often small things are started: a layer
of transformers makes seven matrix products and about thirty small passes. Here the projections that
read the same input are one product, weights of norms are multiplied into the products behind them,
and hidden states are the columns of [D, R], so that every product is weight times states, the order
in which the library for matrix products is fastest with few rows:

    n(x) = x / sqrt(mean(x^2) + eps)
    [q; k; v] = W_qkv n(x)      x = x + W_o attention(rotate(q), rotate(k), v)
    [g; u] = W_gu n(x)          x = x + W_down (act(g) u)

In bfloat16 the products and the hidden states are of that type and all else is in float32, as in
`models.fused_layers`; the weights of norms stay where they are, as their product with others would
be rounded once more.

It stands in for the model's own step only where a comparison of both, at every new set of weights,
finds the same states.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.engines.decode import DecodePlan
from posttrain.models.attention import without_mask
from posttrain.models.decoder_layers import LayerParts, has_plain_weights, read_layers
from posttrain.models.forest_model import BOUNDS, evaluating, relative_error
from posttrain.models.language_model import LanguageModel
from posttrain.models.products import fast_products, wide, within

_MOST_BYTES = (
    1 << 30
)  # of a model: what is joined is a second copy of most of it, and large products gain little


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer's weights: qkv [(H + 2 Hkv) D, C], gate_up [2 I, C].

    norms: weights [C, 1] of the norms of the input and of the MLP, None where they are multiplied
    into those behind.
    norm_qk: [H + Hkv, D, 1], the weights of the norms of queries and keys, None without. eps: of
    the three norms.
    """

    attention: Any
    activation: nn.Module
    heads: int
    kv_heads: int
    eps: tuple[float, float, float]
    norms: tuple[Tensor | None, Tensor | None]
    qkv: Tensor
    qkv_bias: Tensor | None
    norm_qk: Tensor | None
    out: Tensor
    gate_up: Tensor
    down: Tensor


class ColumnDecoder:
    """The decoder of a model, for one new token a row. Made by `of`; it holds the weights as
    they were then.
    """

    def __init__(self, base: Any, layers: list[_Layer]) -> None:
        self._base = base
        self._layers = layers

    @staticmethod
    def of(model: LanguageModel) -> ColumnDecoder | None:
        """The decoder of a model, None where it is not of the kind (norm before attention and
        before a gated MLP, no bias behind, rotary positions, no sliding windows), not in float32 or
        bfloat16 on a CPU, too large, or not the same in a comparison."""
        decoder = ColumnDecoder._read(model.base)
        return decoder if decoder is not None and decoder._agrees(model) else None

    @staticmethod
    def _read(base: Any) -> ColumnDecoder | None:
        if not has_plain_weights(base):
            return None
        if sum(p.numel() * p.element_size() for p in base.parameters()) > _MOST_BYTES:
            return None
        layers = [_layer(parts) for parts in read_layers(base) or []]
        known = [layer for layer in layers if layer is not None]
        return ColumnDecoder(base, known) if known and len(known) == len(layers) else None

    @staticmethod
    def state(model: LanguageModel) -> list[object]:
        """What a decoder was made of, to compare with what is now: which weights, how often they
        were written, and which adapters are on."""
        weights = [
            (p.data_ptr(), 0 if p.is_inference() else p._version)
            for p in model.pretrained.parameters()
        ]
        layers: list[Any] = [
            m
            for m in model.pretrained.modules()
            if hasattr(m, "base_layer") and hasattr(m, "disable_adapters")
        ]
        return [*weights, *((tuple(m.active_adapters), m.disable_adapters) for m in layers)]

    def _agrees(self, model: LanguageModel) -> bool:
        """Whether two rows that write two tokens each have the hidden states that the model's
        own step gives.
        """
        count = min(3, model.config.vocab_size)
        prompt = TokenSequence(np.arange(count), np.zeros(count, dtype=bool))
        with evaluating(model.hf), torch.no_grad():
            _, computed = model.prefill(Forest.pack([Tree.build([prompt])]))
            kv = [(k[0], v[0]) for _, (k, v) in sorted(computed.kv.items())]
            plans = [
                DecodePlan([kv], torch.zeros(2, dtype=torch.int64), torch.full((2,), 2))
                for _ in range(2)
            ]
            for token in (0, count - 1):
                tokens = torch.tensor([token, count // 2])
                found = self.step(tokens, plans[0].positions(), plans[0])
                expected = model_step(self._base, tokens, plans[1])
                if not relative_error(found, expected) <= BOUNDS.get(found.dtype, 5e-2):
                    return False
                for plan in plans:
                    plan.advance()
        return True

    @within(fast_products)
    def step(self, tokens: Tensor, positions: Tensor, plan: DecodePlan) -> Tensor:
        """Last hidden states [R, C] (columns in memory) of one new token a row, tokens and
        positions [R].
        """
        x = self._base.embed_tokens(tokens).t().contiguous()
        cos, sin = (wide(part[0].t()) for part in self._base.rotary_emb(x, positions[None]))
        for number, layer in enumerate(self._layers):
            mixed = plan.attend_one(*_heads(layer, x, cos, sin), number, layer.attention.scaling)
            x.addmm_(layer.out, mixed.flatten(1).t().to(x.dtype))
            gate, up = (layer.gate_up @ _normed(x, layer.eps[2], layer.norms[1])).chunk(2)
            x.addmm_(layer.down, layer.activation(gate).mul_(up))
        norm = self._base.norm
        return _normed(x, norm.variance_epsilon, norm.weight[:, None]).t()


@within(fast_products)
def model_step(base: Any, tokens: Tensor, plan: DecodePlan) -> Tensor:
    """The same by the model itself: last hidden states [R, C] of one new token a row, tokens
    [R].
    """
    return base(
        input_ids=tokens[:, None],
        position_ids=plan.positions()[:, None],
        attention_mask=without_mask(tokens.device),
        use_cache=False,
        attention_plan=plan,
    ).last_hidden_state[:, 0]


def _heads(layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries [R, H, D] and keys, and values [R, Hkv, D], of hidden states [C, R]; cos
    and sin [D, R].
    """
    depth, turned = len(cos), layer.heads + layer.kv_heads
    joined = wide(layer.qkv @ _normed(x, layer.eps[0], layer.norms[0]))
    if layer.qkv_bias is not None:
        joined += layer.qkv_bias
    joined = joined.view(-1, depth, x.shape[1])
    pairs = joined[:turned]
    if layer.norm_qk is not None:
        pairs = (
            pairs
            * torch.rsqrt(pairs.square().mean(1, keepdim=True).add_(layer.eps[1]))
            * layer.norm_qk
        )
    half = depth // 2
    swapped = torch.cat([-pairs[:, half:], pairs[:, :half]], 1)
    turned_pairs = (pairs * cos).addcmul_(swapped, sin).permute(2, 0, 1)
    return (
        turned_pairs[:, : layer.heads],
        turned_pairs[:, layer.heads :],
        joined[turned:].permute(2, 0, 1),
    )


def _normed(x: Tensor, eps: float, weight: Tensor | None) -> Tensor:
    """Columns of x [C, R] over their root mean square, times the weight of the norm where one
    is given.
    """
    given = wide(x)
    normed = (given * torch.rsqrt(given.square().mean(0).add_(eps))).to(x.dtype)
    return normed if weight is None else normed * weight


def _layer(parts: LayerParts) -> _Layer | None:
    """A decoder layer's weights, None where it multiplies or adds something that
    `ColumnDecoder.step` does not.
    """
    known = [_projection(part) for part in parts.projections]
    if None in known:
        return None
    q, k, v, o, gate, up, down = (part for part in known if part is not None)
    if (
        any(part.bias is not None for part in (o, gate, up, down))
        or len({part.bias is None for part in (q, k, v)}) > 1
    ):
        return None
    depth = parts.attention.head_dim
    qkv, gate_up = torch.cat([q.weight, k.weight, v.weight]), torch.cat([gate.weight, up.weight])
    norms: tuple[Tensor | None, Tensor | None] = (None, None)
    of_input, of_mlp = parts.input_norm.weight.detach(), parts.mlp_norm.weight.detach()
    if qkv.dtype == torch.bfloat16:
        norms = (of_input[:, None], of_mlp[:, None])
    else:
        qkv, gate_up = qkv * of_input, gate_up * of_mlp
    heads, kv_heads = len(q.weight) // depth, len(k.weight) // depth
    norm_qk = None
    if parts.q_norm is not None:
        of_queries, of_keys = parts.q_norm.weight.detach(), parts.k_norm.weight.detach()
        norm_qk = torch.cat([of_queries.expand(heads, depth), of_keys.expand(kv_heads, depth)])[
            ..., None
        ]
    return _Layer(
        parts.attention,
        parts.activation,
        heads,
        kv_heads,
        (
            parts.input_norm.variance_epsilon,
            parts.q_norm.variance_epsilon if parts.q_norm is not None else 0.0,
            parts.mlp_norm.variance_epsilon,
        ),
        norms,
        qkv,
        _stacked([part.bias for part in (q, k, v)]),
        norm_qk,
        o.weight,
        gate_up,
        down.weight,
    )


def _stacked(biases: list[Tensor | None]) -> Tensor | None:
    """Biases as one column, None where there are none."""
    given = [bias for bias in biases if bias is not None]
    return torch.cat(given)[:, None] if given else None


class _Projection(NamedTuple):
    """weight [out, in], bias [out] or None."""

    weight: Tensor
    bias: Tensor | None


def _projection(module: Any) -> _Projection | None:
    """What a linear layer multiplies with; of one with plain LoRA, its weight and those of its
    adapters in one.
    """
    if type(module) is nn.Linear:
        return _Projection(
            module.weight.detach(), None if module.bias is None else module.bias.detach()
        )
    if (type(module).__module__, type(module).__name__) != ("peft.tuners.lora.layer", "Linear"):
        return None
    found = _projection(module.base_layer)
    if found is None or module.disable_adapters or module.merged:
        return found
    # Variants (DoRA and others) are close to the sum, so that a comparison would not always tell;
    # nor would it tell that small adapters vanish in the rounding of half precision.
    if (
        found.weight.dtype != torch.float32
        or module.lora_variant
        or any(up.bias is not None for up in module.lora_B.values())
    ):
        return None
    weight = found.weight.clone()
    for name in module.active_adapters:
        if name in module.lora_A:
            weight += module.get_delta_weight(name).detach()
    return _Projection(weight, found.bias)
