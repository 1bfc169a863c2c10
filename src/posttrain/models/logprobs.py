"""Log-probabilities and entropies of targets, in bounded memory.

    raw = h W^T + b       logits = cap(raw * scale)       z = logits / temperature
    logprob = z[target] - logsumexp(z)       entropy = logsumexp(z) - sum_v softmax(z)_v z_v

Targets are taken in chunks of rows. The backward pass computes each chunk again from the saved
log-sum-exp, unless all probabilities together are small enough to be kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch

from posttrain.kernels.products import fast_products, linear, wide, within

_BLOCK_BYTES = 1 << 28  # of a half-precision weight, the part that is held in float32 at a time


@dataclass(frozen=True, slots=True)
class Head:
    """The projection to the vocabulary: weight [V, D], bias [V] or None.

    scale: what logits are multiplied by (Cohere's logit_scale, Granite's 1 / logits_scaling).
    softcap: c of c * tanh(logits / c), applied after the scale (Gemma 2), or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    def widened(self) -> Head:
        """The same as it is now, the weight in float32 where logits are computed so: for a
        caller that asks more than once.
        """
        fits = self.weight.device.type == "cpu" and self.weight.numel() * 4 <= _BLOCK_BYTES
        return replace(self, weight=wide(self.weight)) if fits else self

    def logits(self, hidden: torch.Tensor, *, by_columns: bool = False) -> torch.Tensor:
        """Logits [M, V] of hidden [M, D] in float32 (float64 where given), for few rows: an
        engine's last positions.

        by_columns: for a reader to whom the layout in memory is all one, as V rows of M where that
        is faster.
        """
        logits = _project(hidden, self.weight, by_columns)
        if self.bias is not None:
            logits = logits + self.bias
        return _cap(logits * self.scale if self.scale != 1.0 else logits, self.softcap)


class TokenScores(NamedTuple):
    """Per target [M]: log-probability and entropy (None unless asked for) in nats; whether it
    is the likeliest token.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor | None
    correct: torch.Tensor


def token_logprobs(
    hidden: torch.Tensor,
    head: Head,
    target: torch.Tensor,
    *,
    temperature: float = 1.0,
    entropy: Literal["none", "value", "gradient"] = "none",
    chunk_bytes: int | None = None,
    keep_bytes: int | None = None,
) -> TokenScores:
    """Log-probabilities of `target` and, if asked for, the entropies of the distributions.

    Args:
        hidden: [M, D] last hidden states at the positions that predict. head: the vocabulary
        projection.
        target: int64 [M]. temperature: what logits are divided by, above 0.
        entropy: whether to compute it, and whether it carries a gradient.
        chunk_bytes: most bytes of one chunk of logits; None: on CPU what stays in its cache (8 MiB)
        but at least 128 rows,
            without which the matrix products are slow; 256 MiB elsewhere. Probabilities take as
            much again.
        keep_bytes: where all probabilities take no more than this, they are kept for the backward
        pass instead of being
            computed again; None: 256 MiB on CPU, 2 GiB elsewhere.
    Returns:
        float32 (float64 for float64 input), differentiable in hidden, weight and bias.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; log-probabilities need one above 0")
    on_cpu = hidden.device.type == "cpu"
    keep_bytes = (1 << 28 if on_cpu else 1 << 31) if keep_bytes is None else keep_bytes
    row_bytes = head.weight.shape[0] * (8 if hidden.dtype == torch.float64 else 4)
    if chunk_bytes is None:
        chunk_bytes = max(1 << 23, 128 * row_bytes) if on_cpu else 1 << 28
    keep = torch.is_grad_enabled() and len(target) * row_bytes <= keep_bytes
    settings = _Settings(float(temperature), entropy, max(1, chunk_bytes // row_bytes), keep)
    logprobs, entropies, correct = _TokenLogprobs.apply(
        hidden, head.weight, head.bias, target, head.scale, head.softcap, settings
    )
    return TokenScores(logprobs, entropies if entropy != "none" else None, correct)


def _project(hidden: torch.Tensor, weight: torch.Tensor, by_columns: bool = False) -> torch.Tensor:
    """hidden @ weight.T, accumulated and returned in at least float32; `by_columns`, where it
    may lie so in memory.
    """
    if hidden.device.type == "cuda" and hidden.dtype == weight.dtype in (
        torch.bfloat16,
        torch.float16,
    ):
        return torch.mm(hidden, weight.t(), out_dtype=torch.float32)
    step = max(1, _BLOCK_BYTES // (4 * weight.shape[1]))
    if len(weight) > step and weight.dtype in (torch.bfloat16, torch.float16):
        return torch.cat([_project(hidden, wide(block)) for block in weight.split(step)], -1)
    hidden, weight = wide(hidden), wide(weight)
    return linear(hidden.to(weight.dtype), weight, by_columns=by_columns)


def _project_back(slope: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """slope @ weight in slope's precision, on CUDA accumulated and returned in float32."""
    if slope.device.type == "cuda" and slope.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(slope, weight.to(slope.dtype), out_dtype=torch.float32)
    return slope @ weight.to(slope.dtype)


def _add_outer(total: torch.Tensor, slope: torch.Tensor, hidden: torch.Tensor) -> None:
    """total += slope.T @ hidden; sums of products of half precision are kept in float32."""
    if hidden.dtype == total.dtype:
        total.addmm_(slope.t(), hidden)
    elif slope.device.type == "cuda":
        total += torch.mm(slope.t(), hidden, out_dtype=torch.float32)
    else:
        total += slope.t() @ hidden


def _cap(logits: torch.Tensor, softcap: float | None) -> torch.Tensor:
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


class _Settings(NamedTuple):
    """rows: of one chunk. keep: whether the probabilities stay for the backward pass, where
    they suffice for it.
    """

    temperature: float
    entropy: str
    rows: int
    keep: bool


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        target: torch.Tensor,
        scale: float,
        softcap: float | None,
        settings: _Settings,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        accurate = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logprobs = torch.empty(len(target), dtype=accurate, device=hidden.device)
        lse, entropy = torch.empty_like(logprobs), torch.zeros_like(logprobs)
        correct = torch.empty(len(target), dtype=torch.bool, device=hidden.device)
        head = Head(weight, bias, softcap, scale).widened()
        # With a soft-cap or an entropy that is trained, the backward pass needs the logits
        # themselves.
        keep = (
            settings.keep
            and softcap is None
            and settings.entropy != "gradient"
            and any(ctx.needs_input_grad)
        )
        ctx.kind = torch.promote_types(
            hidden.dtype, weight.dtype
        )  # of the products in the backward pass
        cached = hidden.new_empty(len(target), len(weight), dtype=ctx.kind) if keep else None
        for start in range(0, len(target), settings.rows):
            part = slice(start, start + settings.rows)
            z = head.logits(hidden[part])
            if settings.temperature != 1:
                z.div_(settings.temperature)
            largest = z.amax(-1)
            chosen = z.gather(-1, target[part, None])[:, 0] - largest
            p = torch.softmax(z, -1)
            log_total = -p.amax(-1).log()  # the largest probability is 1 / sum exp(z - largest)
            correct[part], lse[part], logprobs[part] = (
                chosen >= 0,
                largest + log_total,
                chosen - log_total,
            )
            if settings.entropy != "none":
                entropy[part] = log_total - z.sub_(largest[:, None]).mul_(p).sum(-1)
            if cached is not None:
                cached[part] = _less_target(p, target[part], logprobs[part])
        ctx.save_for_backward(hidden, weight, bias, target, logprobs, lse, entropy, cached)
        ctx.head, ctx.settings = (scale, softcap), settings
        ctx.mark_non_differentiable(correct)
        if settings.entropy != "gradient":
            ctx.mark_non_differentiable(entropy)
        return logprobs, entropy, correct

    @staticmethod
    @torch.autograd.function.once_differentiable
    @within(fast_products)
    def backward(
        ctx: Any, grad: torch.Tensor, grad_entropy: torch.Tensor, _: None
    ) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, target, logprobs, lse, entropy, cached = ctx.saved_tensors
        (scale, softcap), settings = ctx.head, ctx.settings
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=lse.dtype) if ctx.needs_input_grad[1] else None
        grad_bias = (
            torch.zeros_like(bias, dtype=lse.dtype)
            if bias is not None and ctx.needs_input_grad[2]
            else None
        )
        head = Head(weight, bias, softcap, scale)
        head = head if cached is not None else head.widened()
        rows = settings.rows if cached is None else max(1, len(target))
        for start in range(0, len(target), rows):
            part = slice(start, start + rows)
            # The gradient of row i of the logits is factor[i] times slope[i]; the factor goes to
            # the narrow side of products.
            factor = grad[part] * (-scale / settings.temperature)
            if cached is not None:
                slope = cached
            else:
                logits = head.logits(hidden[part])
                bent = 1 - (logits / softcap).square_() if softcap is not None else None
                z = logits.div_(settings.temperature).sub_(lse[part, None])  # log-softmax
                if settings.entropy == "gradient":
                    # d entropy / d z = -p (log p + entropy);  d logprob / d z = [v = target] - p
                    slope = (
                        (z + entropy[part, None])
                        .mul_(-grad_entropy[part, None])
                        .sub_(grad[part, None])
                        .mul_(z.exp_())
                    )
                    slope.scatter_add_(-1, target[part, None], grad[part, None])
                    factor = torch.full_like(factor, scale / settings.temperature)
                else:
                    slope = _less_target(z.exp_(), target[part], logprobs[part])
                if bent is not None:
                    slope.mul_(bent)
                slope = slope.to(ctx.kind)
            if grad_hidden is not None:
                grad_hidden[part] = _project_back(slope, weight) * factor[:, None]
            if grad_weight is not None:
                _add_outer(grad_weight, slope, (hidden[part] * factor[:, None]).to(slope.dtype))
            if grad_bias is not None:
                grad_bias += factor @ slope.to(factor.dtype)
        return (
            grad_hidden,
            grad_weight.to(weight.dtype) if grad_weight is not None else None,
            grad_bias.to(bias.dtype) if grad_bias is not None else None,
            *[None] * 4,
        )


def _less_target(p: torch.Tensor, target: torch.Tensor, logprobs: torch.Tensor) -> torch.Tensor:
    """p - [v = target], written over probabilities p [M, V]; exact to rounding where p is close
    to 1, as exp(logprobs) - 1.
    """
    return p.scatter_(-1, target[:, None], torch.expm1(logprobs)[:, None])
