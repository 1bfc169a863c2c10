"""Losses of models with a score: reward models, outcome models, process models.

Inputs: `chosen_score`, `rejected_score`, `margin`, `probability` [Q], one number a pair; `score`,
`reward`, `label` [S], one a sequence, and `group` [S], the prompt that it answers; `scores`,
`labels` [M], one a scored token. A score is a logit: s(x), the logistic function, makes a
probability of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.losses.inputs import Metrics
from posttrain.registry import losses


def _levels(scores: Tensor) -> Metrics:
    return dict.fromkeys(("min_reward", "mean_reward", "max_reward"), scores.detach())


def _metrics(chosen: Tensor, rejected: Tensor) -> Metrics:
    """Metrics of every loss of pairs, under TRL's names. A tie is no success."""
    c, r = chosen.detach(), rejected.detach()
    return {**_levels(torch.cat([c, r])), "accuracy": (c > r).to(c.dtype), "margin": c - r}


@losses.register(per="pair")
def bradley_terry(
    chosen_score: Tensor,
    rejected_score: Tensor,
    margin: Tensor,
    *,
    centring_weight: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Metrics]:
    """The likelihood of a preference (Bradley and Terry 1952; InstructGPT, arXiv 2203.02155), the
    loss of reward models.

    l = -(1 - e) log s(c - r - m) - e log s(-(c - r - m)) + centring_weight (c + r)^2

    e = label_smoothing. m is the column `margin` of the data (Llama 2, arXiv 2307.09288), 0 where
    there is none. Preferences leave the level of the scores free; centring_weight, such as 0.01,
    holds it at 0 (arXiv 2312.09244). At first, with all scores 0, l = log 2.
    """
    d = chosen_score - rejected_score - margin
    value = -(1 - label_smoothing) * logsigmoid(d) - label_smoothing * logsigmoid(-d)
    return value + centring_weight * (chosen_score + rejected_score).square(), _metrics(
        chosen_score, rejected_score
    )


@losses.register(per="pair")
def soft_bradley_terry(
    chosen_score: Tensor, rejected_score: Tensor, probability: Tensor
) -> tuple[Tensor, Metrics]:
    """Bradley-Terry on a probability instead of a verdict, such as a judge's (RLAIF, arXiv
    2309.00267).

    l = -p log s(c - r) - (1 - p) log s(r - c); p is the column `probability`, that the chosen one
    is better, 1 where there is none. Least where s(c - r) = p.
    """
    d = chosen_score - rejected_score
    return -probability * logsigmoid(d) - (1 - probability) * logsigmoid(-d), _metrics(
        chosen_score, rejected_score
    )


@losses.register(per="group")
def plackett_luce(score: Tensor, reward: Tensor, group: Tensor) -> tuple[Tensor, Metrics]:
    """The likelihood of a ranking of several completions of a prompt (Plackett 1975; Luce 1959).

    l = sum_i ( log sum_{k = i or reward_k < reward_i} e^score_k - score_i ): the best is chosen
    among all, then the next among the rest. Of two it is Bradley-Terry. Completions with equal
    rewards are not compared with each other. "accuracy" is the share of the comparable pairs that
    the scores order rightly.
    """
    same = group[:, None] == group[None, :]
    below = same & (reward[None, :] < reward[:, None])
    among = below | torch.eye(len(score), dtype=torch.bool, device=score.device)
    table = score[None, :].expand(len(score), -1).masked_fill(~among, -torch.inf)
    values = table.logsumexp(1) - score
    total = torch.zeros(int(group.max()) + 1, dtype=values.dtype, device=values.device).index_add(
        0, group, values
    )
    scores = score.detach()
    right = (scores[:, None] > scores[None, :]).to(scores.dtype)[below]
    return total, {**_levels(score), "accuracy": right}


@losses.register(per="sequence")
def regression(score: Tensor, reward: Tensor) -> tuple[Tensor, Metrics]:
    """Regression of each completion's reward: l = (score - reward)^2."""
    return (score - reward).square(), _levels(score)


@losses.register(per="sequence")
def binary(score: Tensor, label: Tensor, *, positive_weight: float = 1.0) -> tuple[Tensor, Metrics]:
    """Is the completion right? Read at its last token alone. label: 1 or 0, or a probability y.

    l = -positive_weight y log s(score) - (1 - y) log s(-score).
    """
    return _bce(score, label, positive_weight)


@losses.register(per="token")
def outcome(
    scores: Tensor, labels: Tensor, *, positive_weight: float = 1.0
) -> tuple[Tensor, Metrics]:
    """Outcome model: whether the whole completion is right, learnt at each of its tokens and read
    at the last (arXiv 2110.14168).

    l_t = -positive_weight y log s(score_t) - (1 - y) log s(-score_t), y the completion's label.
    """
    return _bce(scores, labels, positive_weight)


@losses.register(per="token")
def process(
    scores: Tensor, labels: Tensor, *, positive_weight: float = 1.0
) -> tuple[Tensor, Metrics]:
    """Process model: whether each step is right, learnt at the step's last token (arXiv 2305.20050;
    2312.08935).

    l_t = -positive_weight y_t log s(score_t) - (1 - y_t) log s(-score_t). y_t is 1 or 0 (hard
    labels), or the share of continuations from there that come out right (soft labels).
    """
    return _bce(scores, labels, positive_weight)


def _bce(scores: Tensor, labels: Tensor, positive_weight: float) -> tuple[Tensor, Metrics]:
    value = -positive_weight * labels * logsigmoid(scores) - (1 - labels) * logsigmoid(-scores)
    right = (scores.detach() > 0) == (labels > 0.5)
    return value, {**_levels(scores), "accuracy": right.to(scores.dtype)}
