"""Losses of pairs that fix the reward of each completion, and not only the gap.

Inputs and symbols as in `preference`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.losses.inputs import Metrics
from posttrain.losses.preference import reward_metrics
from posttrain.losses.settings import check_positive
from posttrain.registry import losses


@losses.register(per="pair")
def cal_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float = 0.001,
) -> tuple[Tensor, Metrics]:
    """Calibrated DPO, whose implied rewards settle at +-1/2 (arXiv 2412.14516).

    l = -log s(c - r) + (c - 1/(2 beta))^2 + (r + 1/(2 beta))^2.
    """
    check_positive(beta=beta)
    c, r = chosen - ref_chosen, rejected - ref_rejected
    goal = 1 / (2 * beta)
    return -logsigmoid(c - r) + (c - goal).square() + (r + goal).square(), reward_metrics(
        beta * c, beta * r
    )


@losses.register(per="pair")
def nca(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float = 0.1
) -> tuple[Tensor, Metrics]:
    """Noise contrastive alignment of a pair (arXiv 2402.05369).

    l = -log s(beta c) - 1/2 log s(-beta c) - 1/2 log s(-beta r): absolute rewards, not just their
    gap.
    """
    c, r = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    return -logsigmoid(c) - 0.5 * logsigmoid(-c) - 0.5 * logsigmoid(-r), reward_metrics(c, r)


@losses.register(per="pair")
def bco_pair(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float = 0.1
) -> tuple[Tensor, Metrics]:
    """Binary classifier optimisation of a pair without a running shift (arXiv 2404.04656).

    l = -log s(beta c) - log s(-beta r).
    """
    c, r = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    return -logsigmoid(c) - logsigmoid(-r), reward_metrics(c, r)


@losses.register(per="pair")
def sppo(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float = 0.1
) -> tuple[Tensor, Metrics]:
    """Self-play preference optimisation with hard wins (arXiv 2405.00675): l = (c - 1/(2
    beta))^2 + (r + 1/(2 beta))^2.
    """
    check_positive(beta=beta)
    c, r = chosen - ref_chosen, rejected - ref_rejected
    goal = 1 / (2 * beta)
    return (c - goal).square() + (r + goal).square(), reward_metrics(beta * c, beta * r)


@losses.register(per="pair")
def apo_zero(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float = 0.1
) -> tuple[Tensor, Metrics]:
    """Anchored preference optimisation, for a chosen one better than the model (arXiv 2408.06266).

    l = 1 - s(beta c) + s(beta r): raises the chosen, lowers the rejected.
    """
    c, r = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    return 1 - c.sigmoid() + r.sigmoid(), reward_metrics(c, r)


@losses.register(per="pair")
def apo_down(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float = 0.1
) -> tuple[Tensor, Metrics]:
    """Anchored preference optimisation, for a chosen one worse than the model (arXiv 2408.06266).

    l = s(beta c) + 1 - s(beta (c - r)): lowers both, the rejected more.
    """
    c, r = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    return c.sigmoid() + 1 - (c - r).sigmoid(), reward_metrics(c, r)


@losses.register(per="pair")
def npo(rejected: Tensor, ref_rejected: Tensor, *, beta: float = 0.1) -> Tensor:
    """Negative preference optimisation, for unlearning: the rejected completions alone (arXiv
    2404.05868).

    l = (2 / beta) log(1 + (pi / ref)^beta) = -(2 / beta) log s(-beta r).
    """
    check_positive(beta=beta)
    return -2 / beta * logsigmoid(-beta * (rejected - ref_rejected))
