"""The loss of a reward model whose score does not follow the length of completions.

Inputs: `chosen_score`, `rejected_score`, `margin` [Q], one number per pair; `completion_length`
[S], tokens of each completion, in the order chosen, rejected of each pair.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.losses.inputs import Metrics
from posttrain.registry import losses

_NEWTON_STEPS = 25


@losses.register(per="batch")
def length_free_bradley_terry(
    chosen_score: Tensor,
    rejected_score: Tensor,
    margin: Tensor,
    completion_length: Tensor,
    *,
    correlation_weight: float = 1.0,
    ridge: float = 0.01,
) -> tuple[Tensor, Metrics]:
    """Bradley-Terry with a length head beside the score, which takes up what the labels owe to
    length (ODIN, arXiv 2402.07319).

        l = -log s(c - r - m + a (z_c - z_r)) + ridge a^2 / 2 + correlation_weight |rho(score, z)|

    z is the length in standard deviations of the step. ODIN's second head is trained to correlate
    with length, so that at its optimum it is affine in it; here it is a z, and a is the least of
    the first two terms over the step, found by Newton's method. By the envelope theorem the
    gradient needs no term for a. rho is Pearson's correlation over the step's completions. The
    length head is dropped after training: the saved score is length-free.

    correlation_weight: weight of |rho|. ridge: keeps a finite where length separates the pairs.
    """
    scores = torch.stack([chosen_score, rejected_score], dim=1)
    z = _standardised(completion_length.view(-1, 2).to(scores.dtype))
    difference = z[:, 0] - z[:, 1]
    d = chosen_score - rejected_score - margin
    a = _length_weight(d.detach(), difference, ridge)
    rho = (_standardised(scores) * z).mean()
    value = -logsigmoid(d + a * difference) + ridge * a.square() / 2
    value = value + correlation_weight * rho.abs()
    c, r = chosen_score.detach(), rejected_score.detach()
    metrics = {
        **dict.fromkeys(("min_reward", "mean_reward", "max_reward"), scores.detach().flatten()),
        "accuracy": (c > r).to(c.dtype),
        "margin": c - r,
        "length_weight": a.detach().reshape(1),
        "length_correlation": rho.detach().reshape(1),
    }
    return value, metrics


def _standardised(values: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over all values; 0 where they are constant."""
    centred = values - values.mean()
    variance = centred.square().mean()
    # The inner `where` keeps the gradient of the root finite where it is not used.
    std = torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt()
    return torch.where(variance > 0, centred / std, torch.zeros_like(centred))


def _length_weight(d: Tensor, difference: Tensor, ridge: float) -> Tensor:
    """argmin_a mean softplus(-(d + a difference)) + ridge a^2 / 2, by damped Newton steps."""
    a = torch.zeros((), dtype=d.dtype, device=d.device)
    for _ in range(_NEWTON_STEPS):
        p = torch.sigmoid(-(d + a * difference))
        slope = -(p * difference).mean() + ridge * a
        curvature = (p * (1 - p) * difference.square()).mean() + ridge
        a = a - (slope / curvature).clamp(-1, 1)
    return a
