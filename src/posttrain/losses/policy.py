"""Policy-gradient losses: the ratio level and the clip form; estimators are in `advantages`, averages in `reduce`."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from posttrain.losses.inputs import Metrics, PerToken
from posttrain.losses.reduce import sequence_mean
from posttrain.registry import losses


def log_ratio(logprobs: Tensor, old_logprobs: Tensor, sequence: Tensor, num_sequences: int, level: str) -> Tensor:
    """log pi/pi_old per target [M]: each token's own ("token"), or its sequence's mean ("sequence").

    The sequence level is the length-normalised ratio of GSPO (arXiv 2507.18071).
    """
    difference = logprobs - old_logprobs
    if level == "token":
        return difference
    return sequence_mean(difference, sequence, num_sequences)[sequence]


@losses.register
def clipped(
    logprobs,
    old_logprobs,
    advantages,
    sequence,
    num_sequences,
    *,
    level: Literal["token", "sequence"] = "token",
    clip_low: float = 0.2,
    clip_high: float | None = None,
    clip_max: float | None = None,
) -> tuple[PerToken, Metrics]:
    """The clipped surrogate of PPO, used by GRPO, Dr.GRPO, DAPO and (level: sequence) GSPO.

    l = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = pi / pi_old per token or per sequence
    (PPO arXiv 1707.06347; clip-higher: DAPO arXiv 2503.14476; sequence ratio: GSPO arXiv 2507.18071).
    clip_high None means clip_low. clip_max bounds r in the unclipped term, so that a negative advantage with a huge ratio
    cannot blow up (dual clip, arXiv 1912.09729; a value above 1 + clip_high).
    At r = 1 the value is -A, so a batch whose advantages sum to zero has a loss of zero and still a gradient.
    All inputs [M] -> [M].
    """
    high = clip_low if clip_high is None else clip_high
    ratio = log_ratio(logprobs, old_logprobs, sequence, num_sequences, level).exp()
    bounded = ratio.clamp(1 - clip_low, 1 + high)
    unclipped = ratio if clip_max is None else ratio.clamp(max=clip_max)
    loss = -torch.minimum(unclipped * advantages, bounded * advantages)
    with torch.no_grad():
        low = ((ratio < 1 - clip_low) & (advantages < 0)).float()
        above = ((ratio > 1 + high) & (advantages > 0)).float()
    return loss, {"clip_ratio/low_mean": low, "clip_ratio/high_mean": above, "clip_ratio/region_mean": low + above}


@losses.register
def reinforce(logprobs, advantages) -> PerToken:
    """REINFORCE: l_t = -A_t log pi(y_t | x, y_<t) (Williams 1992). All inputs [M] -> [M]."""
    return -advantages * logprobs


@losses.register
def cispo(
    logprobs,
    old_logprobs,
    advantages,
    sequence,
    num_sequences,
    *,
    level: Literal["token", "sequence"] = "token",
    clip_max: float = 5.0,
) -> tuple[PerToken, Metrics]:
    """Clipped importance weight, not clipped update: every token keeps a gradient (MiniMax-M1, arXiv 2506.13585).

    l = -sg[min(r, clip_max)] A log pi, r = pi / pi_old; clip_max is the absolute cap of the weight.
    All inputs [M] -> [M].
    """
    ratio = log_ratio(logprobs, old_logprobs, sequence, num_sequences, level).detach().exp()
    capped = (ratio > clip_max).float()
    return -ratio.clamp(max=clip_max) * advantages * logprobs, {"cispo_clip_ratio": capped}
