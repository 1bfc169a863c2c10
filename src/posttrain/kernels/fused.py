"""Decoder layers of Llama-like models as one differentiable function each, on a CPU.

Run module by module, a layer is some fifty small passes over its hidden states and as many in the
backward pass, each of which autograd records, allocates for and starts. Written as one function
(equations in `kernels.layer`) a layer adds into products instead of beside them, works in place,
and keeps for the backward pass only

    n = x / rms(x) of each norm and 1 / rms(x), rotated q and k, v, the result of attention with its
    log-sum-exp, W_gate n, W_up n.

With n = x r, r = (mean(x^2) + eps)^-1/2 and y = n w, the gradient of a norm is

    dw = sum(dy n)      dx = r (dy w - n mean(dy w n))

and that of a rotation by angles is the rotation by the opposite angles. In bfloat16 the products,
the MLP and the hidden states between layers are of that type, as in transformers; norms, rotation
and attention compute in float32.

Only known classes of layers are computed here (`kernels.layer`), and the probe at load time
(`ForestModel.share_trunks`) also compares them with the model's own forward pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from posttrain.kernels.forest_cpu import (
    ForestShape,
    attend_block_backward,
    attend_runs_backward,
)
from posttrain.kernels.layer import Layer, Weights, has_plain_weights, read_layers
from posttrain.kernels.products import fast_products, wide, within


class ForestAttention(Protocol):
    """What a trunk has to know of the forest that it computes.

    shape: the forest's runs. has_prefix: whether keys and values stand before those of the forest.
    """

    shape: ForestShape

    @property
    def has_prefix(self) -> bool: ...

    def attend_runs(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Attention of a layer, query [N, H, D], key and value [N, Hkv, D], and its log-sum-exp.

        A backward pass takes it to be that of `shape` and of what `above` gives.
        """
        ...

    def above(self, layer: int) -> tuple[Tensor | None, Tensor | None]:
        """Keys and values [Hkv, n, D] of a layer that every token sees and that a gradient is
        wanted of; None twice where there are none.
        """
        ...

    def note(self, layer: int, key: Tensor, value: Tensor) -> None:
        """A layer has attended by `attend_runs`, with key and value [N, Hkv, D]."""
        ...


class FusedTrunk:
    """A decoder whose layers are computed as one function each. Made by `fused_trunk`."""

    def __init__(self, base: Any, layers: list[Layer]) -> None:
        self._base = base
        self._layers = layers

    def __call__(self, embedded: Tensor, positions: Tensor, plan: ForestAttention) -> Tensor:
        """Embedded tokens [N, C] at `positions` [N] -> last hidden states [N, C]."""
        cos, sin = self._base.rotary_emb(embedded, positions[None])
        angles = (wide(cos[0][:, None]), wide(sin[0][:, None]))
        hidden = embedded
        for layer in self._layers:
            context = _Context(layer, plan, angles)
            above = plan.above(layer.number)
            hidden, key, value = _FusedLayer.apply(hidden, context, *above, *layer.weights())
            plan.note(layer.number, key, value)
        return self._base.norm(hidden)


def fused_trunk(base: Any, plan: ForestAttention) -> FusedTrunk | None:
    """The fused trunk of a decoder, None where the model has to run by itself.

    That is: not in float32 or bfloat16 on a CPU, layers of another kind, sliding windows, adapters,
    biases behind attention or in the MLP, hooks, attention dropout, checkpointing, or keys that
    stand before the forest's.
    """
    if plan.has_prefix:
        return None
    layers = read_layers(base)
    if layers is None or not all(map(_is_plain, layers)) or any(map(_has_hooks, base.modules())):
        return None
    return FusedTrunk(base, layers) if has_plain_weights(base) else None


def _is_plain(layer: Layer) -> bool:
    projections = layer.projections()
    if any(type(part) is not nn.Linear for part in projections.values()):
        return False
    if any(projections[name].bias is not None for name in ("out", "gate", "up", "down")):
        return False
    if type(layer.activation).__name__ not in ("SiLU", "SiLUActivation"):
        return False
    if not layer.module.training:
        return True
    checkpointed = getattr(layer.module, "gradient_checkpointing", False)
    return not (checkpointed or layer.module.self_attn.attention_dropout)


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


class _Context(NamedTuple):
    """What a layer needs beside tensors that are trained. angles: cos and sin, [N, 1, D] each,
    not in half precision.
    """

    layer: Layer
    plan: ForestAttention
    angles: tuple[Tensor, Tensor]


class _Saved(NamedTuple):
    """What the backward pass needs of the forward pass. n1, r1, n2, r2: of the two norms (see the
    module). lse: of the attention.
    """

    n1: Tensor
    r1: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    q_normed: Tensor | None
    q_root: Tensor | None
    k_normed: Tensor | None
    k_root: Tensor | None
    mixed: Tensor
    lse: Tensor
    n2: Tensor
    r2: Tensor
    gate: Tensor
    up: Tensor


class _FusedLayer(torch.autograd.Function):
    """Hidden states [N, C] -> [N, C], and the layer's keys and values [N, Hkv, D]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        context: _Context,
        key_above: Tensor | None,
        value_above: Tensor | None,
        *weights: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        w = Weights(*weights)  # type: ignore[arg-type]
        layer, plan, angles = context
        n1, r1 = _normed(x, layer.eps.input)
        q, k, v = _projected(n1 * w.input_norm, w, layer.head_dim)
        q, q_normed, q_root = _prepared(q, w.q_norm, layer.eps.q, angles)
        k, k_normed, k_root = _prepared(k, w.k_norm, layer.eps.k, angles)
        mixed, lse = plan.attend_runs(layer.number, q, k, v, layer.scale)
        x = torch.addmm(x, mixed.flatten(1).to(x.dtype), w.out.t())
        n2, r2 = _normed(x, layer.eps.mlp)
        inner = n2 * w.mlp_norm
        gate, up = inner @ w.gate.t(), inner @ w.up.t()
        of_heads = (q_normed, q_root, k_normed, k_root)
        saved = _Saved(n1, r1, q, k, v, *of_heads, mixed, lse, n2, r2, gate, up)
        ctx.save_for_backward(*saved, key_above, value_above, *weights)
        ctx.context = context
        ctx.set_materialize_grads(False)
        return x.addmm_(nn.functional.silu(gate).mul_(up), w.down.t()), k, v

    @staticmethod
    @torch.autograd.function.once_differentiable
    @within(fast_products)
    def backward(
        ctx: Any, grad: Tensor | None, grad_key: Tensor | None, grad_value: Tensor | None
    ) -> tuple[Any, ...]:
        count = len(_Saved._fields)
        saved = _Saved(*ctx.saved_tensors[:count])
        key_above, value_above, *weights = ctx.saved_tensors[count:]
        w = Weights(*weights)
        needed = Weights(*ctx.needs_input_grad[4:])
        if grad is None:  # only keys and values of the layer were used
            grad = torch.zeros_like(saved.n1)
        d_x, grads = _mlp_backward(grad, saved, w, needed)
        # Attention: x = x + W_o mixed
        grads["out"] = _outer(needed.out, d_x, saved.mixed.flatten(1).to(d_x.dtype))
        d_input: Tensor | None = None
        of_above: tuple[Tensor | None, Tensor | None] = (None, None)
        before = ctx.needs_input_grad[0] or any(needed[:9])  # anything before W_o
        if before or ctx.needs_input_grad[2]:
            beside = _Beside(key_above, value_above, grad_key, grad_value)
            d_input, of_above, of_attention = _attention_backward(
                d_x, saved, w, needed, ctx.context, beside
            )
            grads |= of_attention
        return d_input, None, *of_above, *(grads.get(name) for name in Weights._fields)


class _Beside(NamedTuple):
    """Keys and values above the forest [Hkv, n, D], and gradients of the layer's own [N, Hkv, D]
    from outside of the layer; None where there are none.
    """

    key_above: Tensor | None
    value_above: Tensor | None
    grad_key: Tensor | None
    grad_value: Tensor | None


_Grads = dict[str, Tensor | None]
"""Gradients of a layer's weights by their names in `Weights`, None for those that are frozen."""


def _mlp_backward(
    grad: Tensor, saved: _Saved, w: Weights, needed: Weights
) -> tuple[Tensor, _Grads]:
    """The gradient of x in y = x + W_down (silu(gate) up), and those of the weights."""
    grads: _Grads = {}
    act = nn.functional.silu(saved.gate)
    d_hidden = grad @ w.down
    grads["down"] = _outer(needed.down, grad, act * saved.up)
    d_up = act.mul_(d_hidden)
    d_gate = torch.ops.aten.silu_backward(d_hidden.mul_(saved.up), saved.gate)
    inner = saved.n2 * w.mlp_norm
    grads["gate"] = _outer(needed.gate, d_gate, inner)
    grads["up"] = _outer(needed.up, d_up, inner)
    d_inner = (d_gate @ w.gate).addmm_(d_up, w.up)
    d_x, grads["mlp_norm"] = _norm_backward(
        d_inner, saved.n2, saved.r2, w.mlp_norm, needed.mlp_norm
    )
    d_x += grad
    return d_x, grads


def _attention_backward(
    d_x: Tensor, saved: _Saved, w: Weights, needed: Weights, context: _Context, beside: _Beside
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None], _Grads]:
    """The gradient of the layer's input from that of what follows attention, those of keys and
    values above, and those of the weights before W_o.
    """
    layer, plan, angles = context
    grads: _Grads = {}
    q, k, v, mixed = saved.q, saved.k, saved.v, saved.mixed
    d_mixed = (d_x @ w.out).unflatten(1, (-1, layer.head_dim)).to(mixed.dtype)
    heads, kv_heads = q.shape[1], k.shape[1]
    d_heads = mixed.new_empty(len(mixed), heads + 2 * kv_heads, layer.head_dim)
    d_q, d_k, d_v = d_heads.split([heads, kv_heads, kv_heads], 1)
    attend_runs_backward(
        d_mixed, q, k, v, mixed, saved.lse, plan.shape, layer.scale, into=(d_q, d_k, d_v)
    )
    of_above: tuple[Tensor | None, Tensor | None] = (None, None)
    if beside.key_above is not None and beside.value_above is not None:
        above = (beside.key_above, beside.value_above)
        of_above = attend_block_backward(
            d_mixed, q, *above, mixed, saved.lse, layer.scale, grad_query=d_q
        )
    if beside.grad_key is not None:
        d_k += beside.grad_key
    if beside.grad_value is not None:
        d_v += beside.grad_value
    grads["q_norm"] = _prepared_backward(
        d_q, saved.q_normed, saved.q_root, w.q_norm, needed.q_norm, angles
    )
    grads["k_norm"] = _prepared_backward(
        d_k, saved.k_normed, saved.k_root, w.k_norm, needed.k_norm, angles
    )
    flat = d_heads.flatten(1).to(d_x.dtype)
    inner = saved.n1 * w.input_norm if any(needed[1:4]) else None
    grads |= _projected_backward(flat, inner, w, needed)
    d_inner = flat @ torch.cat([w.q, w.k, w.v])
    d_input, grads["input_norm"] = _norm_backward(
        d_inner, saved.n1, saved.r1, w.input_norm, needed.input_norm
    )
    return d_input.add_(d_x), of_above, grads


def _projected(x: Tensor, w: Weights, head_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [N, H, D], keys and values [N, Hkv, D] of [N, C], in at least float32."""
    joined = (x @ torch.cat([w.q, w.k, w.v]).t()).unflatten(1, (-1, head_dim))
    sizes = [len(matrix) // head_dim for matrix in (w.q, w.k, w.v)]
    q, k, v = map(wide, joined.split(sizes, 1))
    for heads, bias in ((q, w.q_bias), (k, w.k_bias), (v, w.v_bias)):
        if bias is not None:
            heads += bias.view(-1, head_dim)
    # v is kept for the backward pass: as a view it would keep the others, too
    return q, k, v.contiguous()


def _projected_backward(flat: Tensor, x: Tensor | None, w: Weights, needed: Weights) -> _Grads:
    """Gradients of the weights and biases in `_projected`.

    flat: the gradient of its results side by side, [N, (H + 2 Hkv) D]. x: its input, None where no
    matrix needs a gradient.
    """
    sizes = [len(matrix) for matrix in (w.q, w.k, w.v)]
    grads: _Grads = {}
    if x is not None:
        for name, part in zip("qkv", (flat.t() @ x).split(sizes)):
            grads[name] = part if getattr(needed, name) else None
    for name, part in zip("qkv", flat.split(sizes, 1)):
        grads[f"{name}_bias"] = part.sum(0) if getattr(needed, f"{name}_bias") else None
    return grads


def _outer(needed: Any, grad: Tensor, x: Tensor) -> Tensor | None:
    """The gradient of a matrix W in x W^T from that of the product, where it is needed."""
    return grad.t() @ x if needed else None


def _normed(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x over its root mean square, and one over that, which is never in half precision."""
    widened = wide(x)
    root = widened.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    return (x * root if widened is x else widened.mul_(root).to(x.dtype)), root


def _norm_backward(
    grad: Tensor, normed: Tensor, root: Tensor, weight: Tensor, needed: Any
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the input and of the weight of normed * weight; the former is written over a
    grad [..., C] in float32.
    """
    grad, n, weight = wide(grad), wide(normed), weight.to(root.dtype)
    together = grad * n
    d_weight = together.flatten(0, -2).sum(0) if needed else None
    along = (together @ weight).div_(len(weight))[..., None]
    return grad.mul_(weight).addcmul_(n, along, value=-1).mul_(root).to(normed.dtype), d_weight


def _prepared(
    heads: Tensor, weight: Tensor | None, eps: float, angles: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Queries or keys [N, H, D] normed (where there is a weight for it) and rotated; the normed
    ones before weight and rotation; the root.
    """
    if weight is None:
        return _rotated(heads, *angles), None, None
    normed, root = _normed(heads, eps)
    return _rotated(normed * weight, *angles), normed, root


def _prepared_backward(
    grad: Tensor,
    normed: Tensor | None,
    root: Tensor | None,
    weight: Tensor | None,
    needed: Any,
    angles: tuple[Tensor, Tensor],
) -> Tensor | None:
    """The gradient of the weight; that of the input is written over grad [N, H, D]."""
    cos, sin = angles
    turned = grad * sin
    half = turned.shape[-1] // 2
    grad.mul_(cos)
    grad[..., :half] += turned[..., half:]
    grad[..., half:] -= turned[..., :half]
    if weight is None or normed is None or root is None:
        return None
    return _norm_backward(grad, normed, root, weight, needed)[1]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x cos + [-x2; x1] sin for x = [x1; x2] (Su et al. 2021, arXiv 2104.09864, in
    transformers' order of dimensions).
    """
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out
