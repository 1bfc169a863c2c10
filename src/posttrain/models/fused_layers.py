"""Decoder layers of Llama-like models as one differentiable function each, on a CPU.

Run module by module, a layer is some fifty small passes over its hidden states and as many in the
backward pass, each of which autograd records, allocates for and starts. Written as one function
(equations in `models.decoder_layers`) a layer adds into products instead of beside them, works in
place, and keeps for the backward pass only

    n = x / rms(x) of each norm and 1 / rms(x), rotated q and k, v, what attention gave with its
    log-sum-exp, W_gate n, W_up n.

With n = x r, r = (mean(x^2) + eps)^-1/2 and y = n w, the gradient of a norm is

    dw = sum(dy n)      dx = r (dy w - n mean(dy w n))

and that of a rotation by angles is the rotation by the opposite angles. In bfloat16 the products,
the MLP and the hidden states between layers are of that type, as in transformers; norms, rotation
and attention compute in float32.

Only classes of layers that are known are computed here (`models.decoder_layers`), and the probe at
load time (`ForestModel.share_trunks`) compares them with the model's own forward pass besides.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from posttrain.models.attention import ForestPlan
from posttrain.models.decoder_layers import LayerParts, has_plain_weights, read_layers
from posttrain.models.forest_kernel import attend_runs, attend_runs_backward
from posttrain.models.products import fast_products, wide, within


def fusible_layers(base: Any, plan: ForestPlan) -> list[LayerParts] | None:
    """The layers of a decoder that `fused_hidden` can compute, None where the model has to run by
    itself.

    That is: not in float32 or bfloat16 on a CPU, layers of another kind, sliding windows, adapters,
    biases behind attention or in the MLP, hooks, attention dropout, checkpointing, or keys that
    stand before the forest's.
    """
    if plan.has_prefix:
        return None
    layers = read_layers(base)
    if layers is None or not all(map(_is_plain, layers)) or any(map(_has_hooks, base.modules())):
        return None
    return layers if has_plain_weights(base) else None


def fused_hidden(
    base: Any, layers: list[LayerParts], embedded: Tensor, positions: Tensor, plan: ForestPlan
) -> Tensor:
    """Last hidden states [N, C] of embedded tokens [N, C] at `positions` [N]."""
    angles = tuple(wide(part[0][:, None]) for part in base.rotary_emb(embedded, positions[None]))
    hidden = embedded
    for number, layer in enumerate(layers):
        hidden = _Layer.apply(hidden, angles, _Facts.of(layer, number, plan), *_weights(layer))
    return base.norm(hidden)


class _Weights(NamedTuple):
    """A layer's parameters, in the order in which `_Layer` takes them; None for what it has not."""

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


class _Facts(NamedTuple):
    """What a layer needs beside tensors. eps: of the norms of the input, of queries, of keys
    and of the MLP.
    """

    number: int
    head_dim: int
    scale: float
    eps: tuple[float, float, float, float]
    plan: ForestPlan

    @staticmethod
    def of(layer: LayerParts, number: int, plan: ForestPlan) -> _Facts:
        norms = (layer.input_norm, layer.q_norm, layer.k_norm, layer.mlp_norm)
        eps = tuple(0.0 if norm is None else float(norm.variance_epsilon) for norm in norms)
        return _Facts(number, layer.attention.head_dim, float(layer.attention.scaling), eps, plan)  # type: ignore[arg-type]


def _weights(layer: LayerParts) -> _Weights:
    return _Weights(
        layer.input_norm.weight,
        layer.q.weight,
        layer.k.weight,
        layer.v.weight,
        layer.q.bias,
        layer.k.bias,
        layer.v.bias,
        None if layer.q_norm is None else layer.q_norm.weight,
        None if layer.k_norm is None else layer.k_norm.weight,
        layer.out.weight,
        layer.mlp_norm.weight,
        layer.gate.weight,
        layer.up.weight,
        layer.down.weight,
    )


def _is_plain(layer: LayerParts) -> bool:
    if any(type(part) is not nn.Linear for part in layer.projections):
        return False
    if any(part.bias is not None for part in (layer.out, layer.gate, layer.up, layer.down)):
        return False
    if type(layer.activation).__name__ not in ("SiLU", "SiLUActivation"):
        return False
    checkpointed = getattr(layer.whole, "gradient_checkpointing", False)
    return not (layer.whole.training and (checkpointed or layer.attention.attention_dropout))


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


class _Layer(torch.autograd.Function):
    """Hidden states [N, C] -> [N, C]. angles: cos and sin, [N, 1, D] each, not in half
    precision.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, angles: tuple[Tensor, Tensor], facts: _Facts, *weights: Tensor | None
    ) -> Tensor:
        w = _Weights(*weights)  # type: ignore[arg-type]
        n1, r1 = _normed(x, facts.eps[0])
        q, k, v = _projected(n1 * w.input_norm, w, facts.head_dim)
        q, q_normed, q_root = _prepared(q, w.q_norm, facts.eps[1], angles)
        k, k_normed, k_root = _prepared(k, w.k_norm, facts.eps[2], angles)
        mixed, lse = attend_runs(q, k, v, facts.plan.shape, facts.scale)
        facts.plan.note(facts.number, k, v)
        x = torch.addmm(x, mixed.flatten(1).to(x.dtype), w.out.t())
        n2, r2 = _normed(x, facts.eps[3])
        inner = n2 * w.mlp_norm
        gate, up = inner @ w.gate.t(), inner @ w.up.t()
        ctx.save_for_backward(
            n1,
            r1,
            q,
            k,
            v,
            q_normed,
            q_root,
            k_normed,
            k_root,
            mixed,
            lse,
            n2,
            r2,
            gate,
            up,
            *weights,
        )
        ctx.angles, ctx.facts = angles, facts
        return x.addmm_(nn.functional.silu(gate).mul_(up), w.down.t())

    @staticmethod
    @torch.autograd.function.once_differentiable
    @within(fast_products)
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (
            n1,
            r1,
            q,
            k,
            v,
            q_normed,
            q_root,
            k_normed,
            k_root,
            mixed,
            lse,
            n2,
            r2,
            gate,
            up,
            *weights,
        ) = ctx.saved_tensors
        w, wanted = _Weights(*weights), _Weights(*ctx.needs_input_grad[3:])
        shape, scale, depth = ctx.facts.plan.shape, ctx.facts.scale, ctx.facts.head_dim
        found: dict[str, Tensor | None] = {}
        # The MLP: y = x + W_down (silu(gate) up)
        act = nn.functional.silu(gate)
        d_hidden = grad @ w.down
        found["down"] = _outer(wanted.down, grad, act * up)
        d_up = act.mul_(d_hidden)
        d_gate = torch.ops.aten.silu_backward(d_hidden.mul_(up), gate)
        inner = n2 * w.mlp_norm
        found["gate"], found["up"] = (
            _outer(wanted.gate, d_gate, inner),
            _outer(wanted.up, d_up, inner),
        )
        d_inner = (d_gate @ w.gate).addmm_(d_up, w.up)
        d_x, found["mlp_norm"] = _norm_backward(d_inner, n2, r2, w.mlp_norm, wanted.mlp_norm)
        d_x += grad
        # Attention: x = x + W_o mixed, where anything of it is wanted
        found["out"] = _outer(wanted.out, d_x, mixed.flatten(1).to(d_x.dtype))
        d_first = None
        if ctx.needs_input_grad[0] or any(wanted[:9]):
            d_mixed = (d_x @ w.out).unflatten(1, (-1, depth)).to(mixed.dtype)
            d_heads = mixed.new_empty(len(mixed), q.shape[1] + 2 * k.shape[1], depth)
            d_q, d_k, d_v = d_heads.split([q.shape[1], k.shape[1], k.shape[1]], 1)
            attend_runs_backward(d_mixed, q, k, v, mixed, lse, shape, scale, into=(d_q, d_k, d_v))
            found["q_norm"] = _prepared_backward(
                d_q, q_normed, q_root, w.q_norm, wanted.q_norm, ctx.angles
            )
            found["k_norm"] = _prepared_backward(
                d_k, k_normed, k_root, w.k_norm, wanted.k_norm, ctx.angles
            )
            flat = d_heads.flatten(1).to(d_x.dtype)
            found |= _projected_backward(
                flat, n1 * w.input_norm if any(wanted[1:4]) else None, w, wanted
            )
            d_inner = flat @ torch.cat([w.q, w.k, w.v])
            d_first, found["input_norm"] = _norm_backward(
                d_inner, n1, r1, w.input_norm, wanted.input_norm
            )
            d_first.add_(d_x)
        return d_first, None, None, *(found.get(name) for name in _Weights._fields)


def _projected(x: Tensor, w: _Weights, depth: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [N, H, D], keys and values [N, Hkv, D] of [N, C], in at least float32."""
    joined = x @ torch.cat([w.q, w.k, w.v]).t()
    q, k, v = map(
        wide,
        joined.unflatten(1, (-1, depth)).split([len(part) // depth for part in (w.q, w.k, w.v)], 1),
    )
    for part, bias in ((q, w.q_bias), (k, w.k_bias), (v, w.v_bias)):
        if bias is not None:
            part += bias.view(-1, depth)
    return (
        q,
        k,
        v.contiguous(),
    )  # v is kept for the backward pass: as a view it would keep the others, too


def _projected_backward(
    flat: Tensor, x: Tensor | None, w: _Weights, wanted: _Weights
) -> dict[str, Tensor | None]:
    """Gradients of the weights and biases in `_projected` from that of its results as one, [N,
    (H + 2 Hkv) D].
    """
    sizes = [len(part) for part in (w.q, w.k, w.v)]
    found: dict[str, Tensor | None] = {}
    if x is not None:
        for name, part in zip("qkv", (flat.t() @ x).split(sizes)):
            found[name] = part if getattr(wanted, name) else None
    for name, part in zip("qkv", flat.split(sizes, 1)):
        found[f"{name}_bias"] = part.sum(0) if getattr(wanted, f"{name}_bias") else None
    return found


def _outer(wanted: Any, grad: Tensor, given: Tensor) -> Tensor | None:
    """The gradient of a matrix that `given` was multiplied with, where it is wanted."""
    return grad.t() @ given if wanted else None


def _normed(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x over its root mean square, and one over that, which is never in half precision."""
    given = wide(x)
    root = given.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
    return (x * root if given is x else given.mul_(root).to(x.dtype)), root


def _norm_backward(
    grad: Tensor, normed: Tensor, root: Tensor, weight: Tensor, wanted: Any
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the input and of the weight of normed * weight; the former is written over a
    grad [..., C] in float32.
    """
    grad, n, weight = wide(grad), wide(normed), weight.to(root.dtype)
    together = grad * n
    d_weight = together.flatten(0, -2).sum(0) if wanted else None
    along = (together @ weight).div_(len(weight))[..., None]
    return grad.mul_(weight).addcmul_(n, along, value=-1).mul_(root).to(normed.dtype), d_weight


def _prepared(
    heads: Tensor, weight: Tensor | None, eps: float, angles: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Queries or keys [N, H, D] normed (where there is a weight for it) and rotated; what they
    were normed to; the root.
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
    wanted: Any,
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
    return _norm_backward(grad, normed, root, weight, wanted)[1]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x cos + [-x2; x1] sin for x = [x1; x2] (Su et al. 2021, arXiv 2104.09864, in
    transformers' order of dimensions).
    """
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out
