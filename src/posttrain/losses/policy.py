"""Policy-gradient losses.

A loss is a ratio level and a clip form. Estimators are in `advantages`, averages in `reduce`.

Every loss is homogeneous in the advantages, so that a weight on a token (an importance correction,
a mask) is a factor on its advantage: see `rollouts.credit`.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from posttrain.losses.exponential import bounded_exp
from posttrain.losses.inputs import Metrics
from posttrain.losses.reduce import sequence_mean, sequence_sum
from posttrain.losses.settings import check_positive
from posttrain.registry import losses

RatioLevel = Literal["token", "sequence", "sequence_token", "sequence_sum"]
"""Of what pi / pi_old is the ratio: see `log_ratio`."""

Level = Literal["token", "sequence"]
"""The levels of a ratio that every loss with a level has."""


def log_ratio(
    logprobs: Tensor, old_logprobs: Tensor, sequence: Tensor, num_sequences: int, level: RatioLevel
) -> Tensor:
    """log pi/pi_old per target [M].

    level: "token", each token's own; "sequence", its sequence's mean, the length-normalised ratio
    of GSPO (arXiv 2507.18071); "sequence_token", the value of that with the gradient of the token's
    own ratio (GSPO-token, same paper), for advantages that differ within a sequence;
    "sequence_sum", the ratio of the whole sequence's probabilities (RLOO, arXiv 2402.14740).
    """
    difference = logprobs - old_logprobs
    if level == "token":
        return difference
    if level == "sequence_sum":
        return sequence_sum(difference, sequence, num_sequences)[sequence]
    mean = sequence_mean(difference, sequence, num_sequences)[sequence]
    return mean if level == "sequence" else mean.detach() + logprobs - logprobs.detach()


@losses.register(per="token")
def clipped(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    level: RatioLevel = "token",
    clip_low: float = 0.2,
    clip_high: float | None = None,
    clip_max: float | None = None,
) -> tuple[Tensor, Metrics]:
    """The clipped surrogate of PPO, used by GRPO, Dr.GRPO, DAPO and (level: sequence) GSPO.

    l = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A), r = pi / pi_old per token or per sequence
    (PPO arXiv 1707.06347; clip-higher: DAPO arXiv 2503.14476; sequence ratio: GSPO arXiv
    2507.18071). clip_high None means clip_low. clip_max bounds r in the unclipped term, so that a
    negative advantage with a huge ratio cannot blow up (dual clip, arXiv 1912.09729; a value above
    1 + clip_high). At r = 1 the value is -A, so a batch whose advantages sum to zero has a loss of
    zero and still a gradient. All inputs [M] -> [M].
    """
    high = clip_low if clip_high is None else clip_high
    ratio = bounded_exp(log_ratio(logprobs, old_logprobs, sequence, num_sequences, level))
    bounded = ratio.clamp(1 - clip_low, 1 + high)
    unclipped = ratio if clip_max is None else ratio.clamp(max=clip_max)
    loss = -torch.minimum(unclipped * advantages, bounded * advantages)
    with torch.no_grad():
        low = ((ratio < 1 - clip_low) & (advantages < 0)).float()
        above = ((ratio > 1 + high) & (advantages > 0)).float()
    return loss, {
        "clip_ratio/low_mean": low,
        "clip_ratio/high_mean": above,
        "clip_ratio/region_mean": low + above,
    }


@losses.register(per="token")
def surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    level: RatioLevel = "token",
) -> Tensor:
    """What TRPO maximises, without a clip: l = -r A (arXiv 1502.05477). Keep the step small by
    trust_region.

    All inputs [M] -> [M].
    """
    ratio = bounded_exp(log_ratio(logprobs, old_logprobs, sequence, num_sequences, level))
    return -ratio * advantages


@losses.register(per="token")
def reinforce(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """REINFORCE: l_t = -A_t log pi(y_t | x, y_<t) (Williams 1992). All inputs [M] -> [M]."""
    return -advantages * logprobs


@losses.register(per="token")
def cispo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    level: Level = "token",
    clip_max: float = 5.0,
) -> tuple[Tensor, Metrics]:
    """Clipped importance weight, not clipped update: every token keeps a gradient (MiniMax-M1,
    arXiv 2506.13585).

    l = -sg[min(r, clip_max)] A log pi, r = pi / pi_old; clip_max is the absolute cap of the weight.
    All inputs [M] -> [M].
    """
    ratio = log_ratio(logprobs, old_logprobs, sequence, num_sequences, level).detach().exp()
    capped = ((ratio > clip_max) & (advantages > 0)).float()
    return -ratio.clamp(max=clip_max) * advantages * logprobs, {"cispo_clip_ratio": capped}


@losses.register(per="token")
def sapo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    level: Level = "token",
    temperature_positive: float = 1.0,
    temperature_negative: float = 1.05,
) -> Tensor:
    """Soft adaptive policy optimisation: a smooth gate where PPO clips (arXiv 2511.20347).

    l = -(4 / t) s(t (r - 1)) A, s the logistic function, t = temperature_positive where A > 0, else
    temperature_negative. At r = 1 the gradient is that of -r A; it fades as r leaves 1. All inputs
    [M] -> [M].
    """
    check_positive(
        temperature_positive=temperature_positive, temperature_negative=temperature_negative
    )
    ratio = bounded_exp(log_ratio(logprobs, old_logprobs, sequence, num_sequences, level))
    t = torch.where(advantages > 0, temperature_positive, temperature_negative).to(ratio.dtype)
    return -4 / t * (t * (ratio - 1)).sigmoid() * advantages


@losses.register(per="token")
def vespo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    k_positive: float = 2.0,
    lambda_positive: float = 3.0,
    k_negative: float = 3.0,
    lambda_negative: float = 2.0,
) -> Tensor:
    """VESPO: the weight of a whole sequence, reshaped so that it fades on both sides of 1 (arXiv
    2602.10693).

    l = -sg[phi(w)] A log pi,  phi(w) = w^k e^{lambda (1 - w)}

    log w is the sum over the sequence of log r (each within +-20, the sum within log 1e-8 and 20);
    (k, lambda) by the sign of A. phi(1) = 1. All inputs [M] -> [M].
    """
    total = sequence_sum(
        (logprobs - old_logprobs).detach().clamp(-20, 20), sequence, num_sequences
    )[sequence]
    log_w = total.clamp(math.log(1e-8), 20)
    up = advantages >= 0
    k = torch.where(up, k_positive, k_negative).to(log_w.dtype)
    rate = torch.where(up, lambda_positive, lambda_negative).to(log_w.dtype)
    weight = (rate * (1 - log_w.exp()) + k * log_w).exp()
    return -weight * advantages * logprobs


@losses.register(per="sequence")
def gmpo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    clip: float = 0.4,
) -> tuple[Tensor, Metrics]:
    """Geometric-mean policy optimisation (arXiv 2507.20673).

    l = -A exp(1/T sum_t d_t),  d_t = log r_t

    d_t is at most clip where A > 0 and at least -clip where A < 0. The geometric mean of the
    clipped ratios moves little with single outliers. A is the sequence's
    (its mean over tokens). Inputs [M] -> [S].
    """
    sign = torch.where(advantages >= 0, 1.0, -1.0).to(logprobs.dtype)
    difference = logprobs - old_logprobs
    bounded = sign * (sign * difference).clamp(max=clip)
    outside = (sign * difference.detach() > clip).float()
    ratio = bounded_exp(sequence_mean(bounded, sequence, num_sequences))
    return -sequence_mean(advantages, sequence, num_sequences) * ratio, {
        "clip_ratio/region_mean": outside
    }


@losses.register(per="token")
def dppo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    divergence: Literal["tv", "kl"] = "tv",
    bound: float = 0.15,
    clip_max: float = 20.0,
) -> tuple[Tensor, Metrics]:
    """Divergence PPO: tokens stop learning once their probability, not its ratio, has moved far
    (arXiv 2602.04879).

    l = -sg[m min(r, clip_max)] A log pi

    m = 0 where the update would move further away (A > 0 and r > 1, or A < 0 and r < 1) and
    D > bound, else 1. D of token against rest: tv |pi - pi_old|, or kl
    KL(Bernoulli(pi_old) || Bernoulli(pi)). All inputs [M] -> [M].
    """
    with torch.no_grad():
        new, old = logprobs.exp(), old_logprobs.exp()
        if divergence == "tv":
            distance = (new - old).abs()
        else:
            rest = ((1 - old).clamp(min=1e-8) / (1 - new).clamp(min=1e-8)).log()
            distance = old * (old_logprobs - logprobs) + (1 - old) * rest
        away = torch.where(advantages > 0, new > old, (new < old) & (advantages < 0))
        masked = away & (distance > bound)
        weight = torch.where(masked, 0.0, (logprobs - old_logprobs).exp().clamp(max=clip_max))
    return -weight * advantages * logprobs, {"clip_ratio/region_mean": masked.float()}


@losses.register(per="token")
def opsm(
    logprobs: Tensor,
    old_logprobs: Tensor,
    engine_logprobs: Tensor,
    advantages: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    threshold: float = 0.5,
    level: Level = "token",
    clip_low: float = 0.2,
    clip_high: float | None = None,
) -> tuple[Tensor, Metrics]:
    """`clipped` with off-policy sequence masking (DeepSeek-V3.2, arXiv 2512.02556).

    Sequences with a negative advantage whose mean log(pi_engine / pi) exceeds threshold, nats a
    token, are left out: bad samples that the policy would hardly write any more teach nothing
    stable. All inputs [M] -> [M].
    """
    loss, metrics = clipped(
        logprobs,
        old_logprobs,
        advantages,
        sequence,
        num_sequences,
        level=level,
        clip_low=clip_low,
        clip_high=clip_high,
    )
    drift = sequence_mean((engine_logprobs - logprobs).detach(), sequence, num_sequences)[sequence]
    masked = (advantages < 0) & (drift > threshold)
    return torch.where(masked, 0.0, loss), {**metrics, "off_policy_masked": masked.float()}


@losses.register(per="group")
def mrt(logprob: Tensor, reward: Tensor, group: Tensor, *, alpha: float = 0.005) -> Tensor:
    """Minimum risk training: the expected cost under the policy renormalised over the sampled
    candidates (arXiv 1512.02433).

    l = -sum_i Q_i r_i,  Q_i = p_i^alpha / sum_j p_j^alpha over the completions of the prompt

    The cost is minus the reward. A candidate without a reward (NaN) is left out. The set should
    hold no duplicates (the method's drop_duplicates). logprob, reward, group [S] -> [Q].
    """
    rewarded = ~reward.isnan()
    powers = torch.where(rewarded, alpha * logprob, -torch.inf)
    num_groups = int(group.max()) + 1 if len(group) else 0
    highest = torch.full((num_groups,), -torch.inf, dtype=powers.dtype, device=powers.device)
    highest = highest.scatter_reduce(0, group, powers.detach(), "amax").clamp(min=-1e30)
    weights = (powers - highest[group]).exp()
    risk = sequence_sum(weights * reward.nan_to_num().to(weights.dtype), group, num_groups)
    return -risk / sequence_sum(weights, group, num_groups).clamp(min=1e-30)
