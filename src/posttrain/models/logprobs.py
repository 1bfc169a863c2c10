"""Log-probabilities and entropies of targets, without ever holding a [targets, vocabulary] tensor.

    raw = h W^T + b       logits = cap(raw * scale)       z = logits / temperature
    logprob = z[target] - logsumexp(z)       entropy = logsumexp(z) - sum_v softmax(z)_v z_v

Targets are taken in chunks of rows; the backward pass computes each chunk again from the saved log-sum-exp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

_BLOCK_BYTES = 1 << 26  # of a half-precision weight, the part that is held in float32 at a time


@dataclass(frozen=True, slots=True)
class Head:
    """The projection to the vocabulary: weight [V, D], bias [V] or None.

    scale: what logits are multiplied by (Cohere's logit_scale, Granite's 1 / logits_scaling). softcap: c of
    c * tanh(logits / c), applied after the scale (Gemma 2), or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [M, V] of hidden [M, D] in float32 (float64 where given), for few rows: an engine's last positions."""
        logits = _project(hidden, self.weight)
        if self.bias is not None:
            logits = logits + self.bias
        return _cap(logits * self.scale if self.scale != 1.0 else logits, self.softcap)


def token_logprobs(
    hidden: torch.Tensor,
    head: Head,
    target: torch.Tensor,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    chunk_bytes: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities of `target` and, if asked for, the entropies of the distributions, in nats.

    Args:
        hidden: [M, D] last hidden states at the positions that predict. head: the vocabulary projection.
        target: int64 [M]. temperature: what logits are divided by, above 0. entropy: whether to compute it too.
        chunk_bytes: most bytes of one chunk of logits; None: 32 MiB on CPU, 512 MiB elsewhere.
    Returns:
        ([M], [M] or None), float32 (float64 for float64 input), differentiable in hidden, weight and bias.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; log-probabilities need one above 0")
    if chunk_bytes is None:
        chunk_bytes = 1 << 25 if hidden.device.type == "cpu" else 1 << 29
    rows = max(1, chunk_bytes // (head.weight.shape[0] * (8 if hidden.dtype == torch.float64 else 4)))
    settings = (head.scale, head.softcap, float(temperature), entropy, rows)
    logprobs, entropies = _TokenLogprobs.apply(hidden, head.weight, head.bias, target, settings)
    return logprobs, entropies if entropy else None


def _project(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """hidden @ weight.T, accumulated and returned in at least float32."""
    if hidden.dtype == weight.dtype and hidden.dtype in (torch.float32, torch.float64):
        return hidden @ weight.t()
    if hidden.device.type == "cuda" and hidden.dtype == weight.dtype:
        return torch.mm(hidden, weight.t(), out_dtype=torch.float32)
    step = max(1, _BLOCK_BYTES // (4 * weight.shape[1]))
    hidden = hidden.float()
    return torch.cat([hidden @ block.float().t() for block in weight.split(step)], -1)


def _project_back(grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """grad @ weight in grad's precision, a half-precision weight converted block by block."""
    if weight.dtype == grad.dtype:
        return grad @ weight
    if grad.device.type == "cuda":
        return torch.mm(grad.to(weight.dtype), weight, out_dtype=torch.float32)
    step = max(1, _BLOCK_BYTES // (4 * weight.shape[1]))
    total = grad.new_zeros(len(grad), weight.shape[1])
    for part, block in zip(grad.split(step, -1), weight.split(step)):
        total.addmm_(part, block.to(grad.dtype))
    return total


def _outer(grad: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """grad.T @ hidden in grad's precision."""
    if grad.device.type == "cuda" and hidden.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(grad.to(hidden.dtype).t(), hidden, out_dtype=torch.float32)
    return grad.t() @ hidden.to(grad.dtype)


def _cap(logits: torch.Tensor, softcap: float | None) -> torch.Tensor:
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        target: torch.Tensor,
        settings: tuple[float, float | None, float, bool, int],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        scale, softcap, temperature, with_entropy, rows = settings
        accurate = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logprobs = torch.empty(len(target), dtype=accurate, device=hidden.device)
        lse, entropy = torch.empty_like(logprobs), torch.zeros_like(logprobs)
        head = Head(weight, bias, softcap, scale)
        for start in range(0, len(target), rows):
            part = slice(start, start + rows)
            z = head.logits(hidden[part]).div_(temperature)
            lse[part] = torch.logsumexp(z, -1)
            logprobs[part] = z.gather(-1, target[part, None])[:, 0] - lse[part]
            if with_entropy:
                entropy[part] = lse[part] - ((z - lse[part, None]).exp_() * z).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, target, lse, entropy)
        ctx.settings = settings
        if not with_entropy:
            ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_logprobs: torch.Tensor, grad_entropy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, target, lse, entropy = ctx.saved_tensors
        scale, softcap, temperature, with_entropy, rows = ctx.settings
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight, dtype=lse.dtype) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=lse.dtype) if bias is not None and ctx.needs_input_grad[2] else None
        head = Head(weight, bias, softcap, scale)
        for start in range(0, len(target), rows):
            part = slice(start, start + rows)
            logits = head.logits(hidden[part])
            slope = 1 - (logits / softcap).square_() if softcap is not None else None
            z = logits.div_(temperature).sub_(lse[part, None])  # log-softmax
            given = grad_logprobs[part]
            if with_entropy:
                # d entropy / d z = -p (log p + entropy);  d logprob / d z = [v = target] - p
                factor = (z + entropy[part, None]).mul_(-grad_entropy[part, None]).sub_(given[:, None])
                grad = z.exp_().mul_(factor)
            else:
                grad = z.exp_().mul_(-given[:, None])
            grad.scatter_add_(-1, target[part, None], given[:, None])
            grad.mul_(scale / temperature)
            if slope is not None:
                grad.mul_(slope)
            if grad_hidden is not None:
                grad_hidden[part] = _project_back(grad, weight).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight += _outer(grad, hidden[part])
            if grad_bias is not None:
                grad_bias += grad.sum(0)
        return (
            grad_hidden,
            grad_weight.to(weight.dtype) if grad_weight is not None else None,
            grad_bias.to(bias.dtype) if grad_bias is not None else None,
            None,
            None,
        )
