"""Losses of several completions of a prompt, ranked by a reward.

Inputs, each [S], one number a completion: `logprob`, `ref_logprob`, sums over its tokens in nats;
`length`, tokens; `reward`, higher is better; `group`, which prompt it belongs to (0..Q-1). Values
are [Q], one per prompt. Equal rewards express no
preference: sums run over strictly better and worse, so that the order of the completions does not
matter.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from posttrain.losses.exponential import bounded_exp
from posttrain.losses.inputs import Metrics
from posttrain.losses.settings import check_positive
from posttrain.registry import losses


def _compared(reward: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """same, better [S, S]: whether i and j share a prompt, and whether i is also strictly
    better than j.
    """
    same = group[:, None] == group[None, :]
    return same, same & (reward[:, None] > reward[None, :])


def _per_group(values: Tensor, group: Tensor) -> Tensor:
    """Sum of values [S] over each group -> [Q]."""
    return values.new_zeros(int(group.max()) + 1).index_add(0, group, values)


def _metrics(score: Tensor, better: Tensor) -> Metrics:
    """Whether each pair that differs in reward is scored in that order: the share is TRL's
    rewards/accuracies.
    """
    i, j = torch.nonzero(better, as_tuple=True)
    gap = (score[i] - score[j]).detach()
    return {"rewards/margins": gap, "rewards/accuracies": (gap > 0).to(gap.dtype)}


def _best_nll(logprob: Tensor, length: Tensor, reward: Tensor, group: Tensor) -> Tensor:
    """-logprob / length of each group's best completion, averaged over those that tie for it ->
    [Q].
    """
    _, better = _compared(reward, group)
    best = (~better.any(0)).to(logprob.dtype)
    return _per_group(-best * logprob / length, group) / _per_group(best, group)


@losses.register(per="group")
def plackett_luce_dpo(
    logprob: Tensor, ref_logprob: Tensor, reward: Tensor, group: Tensor, *, beta: float = 0.1
) -> tuple[Tensor, Metrics]:
    """DPO of a whole ranking, under the Plackett-Luce model (arXiv 2305.18290, appendix A.3).

    l = -sum_i (x_i - log sum_{j: R_j <= R_i} e^x_j),  x = beta (logprob - ref_logprob)

    For two completions it is DPO. Completions that tie enter each other's sum (Breslow's treatment
    of ties).
    """
    x = beta * (logprob - ref_logprob)
    same, better = _compared(reward, group)
    below = same & ~better.T
    total = torch.where(below, x[None, :], -torch.inf).logsumexp(1)
    return _per_group(total - x, group), _metrics(x, better)


@losses.register(per="group")
def lipo(
    logprob: Tensor, ref_logprob: Tensor, reward: Tensor, group: Tensor, *, beta: float = 0.1
) -> tuple[Tensor, Metrics]:
    """LiPO-lambda: pairs weighted by what swapping them costs in discounted gain (arXiv
    2402.01878).

    l = -sum_{R_i > R_j} w_ij log s(x_i - x_j),  x = beta (logprob - ref_logprob)
    w_ij = |2^R_i - 2^R_j| |1/log(1 + t_i) - 1/log(1 + t_j)|

    t_i is the place (from 1) of i by x in its group, held constant; of equal x the worse completion
    is ahead. Rewards of about 0 to 5, as
    gains are exponential (those of rewards beyond 57 grow as a logarithm).
    """
    x = beta * (logprob - ref_logprob)
    same, better = _compared(reward, group)
    fixed = x.detach()
    # Where scores are equal, as all are at the start, the worse completion counts as ahead: with
    # equal places there would be nothing to learn. What is equal in reward too shares the middle of
    # its places.
    level = same & (fixed[:, None] == fixed[None, :])
    ahead = (same & (fixed[:, None] > fixed[None, :])).sum(0) + (level & better.T).sum(0)
    ahead = ahead + 0.5 * ((level & ~better & ~better.T).sum(0) - 1)
    discount = 1 / torch.log(2 + ahead.to(x.dtype))
    gain = bounded_exp(math.log(2) * reward.to(x.dtype), power=2)
    cost = (gain[:, None] - gain[None, :]).abs() * (discount[:, None] - discount[None, :]).abs()
    i, j = torch.nonzero(better, as_tuple=True)
    values = -cost[i, j] * logsigmoid(x[i] - x[j])
    return _per_group(torch.zeros_like(x).index_add(0, i, values), group), _metrics(x, better)


@losses.register(per="group")
def rrhf(
    logprob: Tensor, length: Tensor, reward: Tensor, group: Tensor, *, sft_weight: float = 1.0
) -> tuple[Tensor, Metrics]:
    """RRHF: rank by mean log-probability, and imitate the best (arXiv 2304.05302).

    l = sum_{R_i < R_j} max(0, p_i - p_j) + sft_weight (-p_best),  p = logprob / length.
    """
    p = logprob / length
    _, better = _compared(reward, group)
    i, j = torch.nonzero(better, as_tuple=True)
    hinge = torch.zeros_like(p).index_add(0, i, relu(p[j] - p[i]))
    return _per_group(hinge, group) + sft_weight * _best_nll(
        logprob, length, reward, group
    ), _metrics(p, better)


@losses.register(per="group")
def pro(
    logprob: Tensor, length: Tensor, reward: Tensor, group: Tensor, *, sft_weight: float = 0.05
) -> tuple[Tensor, Metrics]:
    """Preference ranking optimisation: each completion against all worse ones, contrasts scaled by
    rewards (arXiv 2306.17492).

    l = -sum_k (m_k p_k - log(e^(m_k p_k) + sum_{i: R_i < R_k} e^((R_k - R_i) p_i)))
        + sft_weight (-p_best)

    p = logprob / length, m_k = max_{i: R_i < R_k} (R_k - R_i); a completion with none below adds
    nothing.
    """
    p = logprob / length
    _, better = _compared(reward, group)
    gap = torch.where(better, reward[:, None] - reward[None, :], 0.0).to(p.dtype)
    weighted = gap.max(1).values * p
    worse = torch.where(better, gap * p[None, :], -torch.inf)
    total = torch.cat([weighted[:, None], worse], 1).logsumexp(1)
    return _per_group(total - weighted, group) + sft_weight * _best_nll(
        logprob, length, reward, group
    ), _metrics(p, better)


def _group_gap(log_ratio: Tensor, reward: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """h [Q], mean log-ratio of the better half of rewards less that of the worse; and the
    variance of that estimate [Q].
    """
    num = int(group.max()) + 1
    bounds = [
        reward.new_zeros(num).scatter_reduce(0, group, reward, reduction, include_self=False)
        for reduction in ("amin", "amax")
    ]
    wins = (reward > ((bounds[0] + bounds[1]) / 2)[group]).to(log_ratio.dtype)
    means, variances = [], []
    for member in (wins, 1 - wins):
        count = _per_group(member, group)
        mean = _per_group(member * log_ratio, group) / count.clamp(min=1)
        square = _per_group(member * (log_ratio - mean[group]).square(), group)
        means.append(mean)
        variances.append(square / (count - 1).clamp(min=1) / count.clamp(min=1))
    return means[0] - means[1], variances[0] + variances[1]


@losses.register(per="group")
def mdpo(
    logprob: Tensor, ref_logprob: Tensor, reward: Tensor, group: Tensor, *, beta: float = 0.1
) -> tuple[Tensor, Metrics]:
    """Multi-sample DPO: the mean of the better samples against the mean of the worse (arXiv
    2410.12138).

    l = -log s(beta h),  h = mean_{G_w} log(pi / ref) - mean_{G_l} log(pi / ref)

    G_w holds the completions whose reward is above the middle between the group's lowest and
    highest, G_l the others. One of each gives DPO.
    """
    x = logprob - ref_logprob
    h, _ = _group_gap(x, reward, group)
    return -logsigmoid(beta * h), _metrics(beta * x, _compared(reward, group)[1])


@losses.register(per="group")
def mipo(
    logprob: Tensor,
    ref_logprob: Tensor,
    reward: Tensor,
    group: Tensor,
    *,
    beta: float = 0.1,
    unbiased: bool = False,
) -> tuple[Tensor, Metrics]:
    """Multi-sample IPO: the gap between the groups' means is driven to 1/(2 beta) (arXiv
    2410.12138).

    l = (h - 1/(2 beta))^2 with h as in mdpo. unbiased: less the variance of h over the samples,
    estimated from the groups (sides of one sample add none), so that its mean is the square at the
    true means.
    """
    check_positive(beta=beta)
    x = logprob - ref_logprob
    h, variance = _group_gap(x, reward, group)
    value = (h - 1 / (2 * beta)).square() - (variance if unbiased else 0.0)
    return value, _metrics(beta * x, _compared(reward, group)[1])
