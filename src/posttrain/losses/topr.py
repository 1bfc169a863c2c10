"""Tapered off-policy REINFORCE."""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.losses.inputs import Metrics
from posttrain.losses.policy import log_ratio
from posttrain.registry import losses


@losses.register(per="token")
def topr(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    clip_positive: float | None = None,
    clip_negative: float = 1.0,
) -> tuple[Tensor, Metrics]:
    """Tapered off-policy REINFORCE: good completions count in full, bad ones by truncated weights
    (arXiv 2503.14286).

    l = -sg[w] A log pi

    w = 1 where A >= 0 (min(r, clip_positive) if that is given), min(r, clip_negative) where A < 0;
    r is the ratio of the whole sequence's probabilities. What the policy hardly writes any more is
    pushed down no further. All inputs [M] -> [M].
    """
    ratio = (
        log_ratio(logprobs, old_logprobs, sequence, num_sequences, "sequence_sum")
        .detach()
        .clamp(max=50)
        .exp()
    )
    up = torch.ones_like(ratio) if clip_positive is None else ratio.clamp(max=clip_positive)
    weight = torch.where(advantages >= 0, up, ratio.clamp(max=clip_negative))
    return -weight * advantages * logprobs, {"topr/weight": weight}
