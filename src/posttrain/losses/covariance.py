"""Policy-gradient losses that act on the covariance of log-prob and advantage.

A token with a high covariance of the two is one whose update lowers the entropy most. Both losses
look at all tokens of the step, so that what they do does not depend on micro-batches; their mean is
over tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.losses.exponential import bounded_exp
from posttrain.losses.inputs import Metrics
from posttrain.losses.policy import clipped
from posttrain.registry import losses


def covariance(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """(log pi - mean log pi) (A - mean A) of each token [M], without gradient."""
    centred = logprobs.detach() - logprobs.detach().mean()
    return centred * (advantages - advantages.mean())


@losses.register(per="batch")
def clip_cov(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    ratio: float = 0.0002,
    cov_low: float = 1.0,
    cov_high: float = 5.0,
    clip_low: float = 0.2,
    clip_high: float | None = None,
    seed: int = 0,
) -> tuple[Tensor, Metrics]:
    """`clipped`, with the gradient of a few tokens of high covariance cut (Clip-Cov, arXiv
    2505.22617).

    Of the tokens whose covariance lies between cov_low and cov_high, a share `ratio` of all tokens
    (at least one) is drawn and gets no gradient. Where the draw falls depends on seed and on the
    order of the covariances alone. All inputs [M] -> [M].
    """
    loss, metrics = clipped(
        logprobs,
        old_logprobs,
        advantages,
        sequence,
        num_sequences,
        clip_low=clip_low,
        clip_high=clip_high,
    )
    cov = covariance(logprobs, advantages)
    order = cov.argsort(stable=True)
    candidates = order[((cov > cov_low) & (cov < cov_high))[order]]
    draw = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))
    cut = torch.zeros_like(cov, dtype=torch.bool)
    cut[candidates[draw[: max(int(ratio * len(cov)), 1)].to(cov.device)]] = True
    return torch.where(cut, 0.0, loss), {
        **metrics,
        "covariance/cut": cut.float(),
        "covariance/mean": cov,
    }


@losses.register(per="batch")
def kl_cov(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    ratio: float = 0.002,
    kl_weight: float = 1.0,
) -> tuple[Tensor, Metrics]:
    """The surrogate r A, with a penalty on the tokens of highest covariance (KL-Cov, arXiv
    2505.22617).

    l = -r A + kl_weight |log r| on the share `ratio` of tokens (at least one) with the highest
    covariance, -r A on the others. All inputs [M] -> [M].
    """
    difference = logprobs - old_logprobs
    cov = covariance(logprobs, advantages)
    held = torch.zeros_like(cov, dtype=torch.bool)
    held[cov.topk(min(max(int(ratio * len(cov)), 1), len(cov))).indices] = True
    penalty = torch.where(held, kl_weight * difference.abs(), 0.0)
    return -bounded_exp(difference) * advantages + penalty, {
        "covariance/held": held.float(),
        "covariance/mean": cov,
    }
