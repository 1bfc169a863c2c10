"""Losses of pairs and triples without a reference model.

Inputs as in `preference`.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from posttrain.losses.exponential import bounded_exp, bounded_expm1
from posttrain.losses.inputs import Metrics
from posttrain.losses.preference import reward_metrics
from posttrain.losses.settings import check_positive
from posttrain.registry import losses


@losses.register(per="pair")
def simpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
) -> tuple[Tensor, Metrics]:
    """SimPO: average log-probability as the reward, with a margin (arXiv 2405.14734).

    l = -log s(beta chosen / |chosen| - beta rejected / |rejected| - gamma).
    """
    c, r = beta * chosen / chosen_length, beta * rejected / rejected_length
    return -logsigmoid(c - r - gamma), reward_metrics(c, r)


@losses.register(per="pair")
def alphapo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float = 2.0,
    gamma: float = 1.0,
    alpha: float = 0.25,
) -> tuple[Tensor, Metrics]:
    """AlphaPO: SimPO with a reward of another shape (arXiv 2501.03884).

    reward = beta (1 - p^-alpha) / alpha with p the geometric mean probability of a token.
    alpha 0 is SimPO.
    """

    def reward(total: Tensor, length: Tensor) -> Tensor:
        if alpha == 0:
            return beta * total / length
        powers = -alpha * total / length
        # For a small alpha, 1 - p^-alpha would cancel.
        gain = -bounded_expm1(powers) if abs(alpha) < 1e-3 else 1 - bounded_exp(powers)
        return beta * gain / alpha

    c, r = reward(chosen, chosen_length), reward(rejected, rejected_length)
    return -logsigmoid(c - r - gamma), reward_metrics(c, r)


@losses.register(per="pair")
def cpo(
    chosen: Tensor, rejected: Tensor, *, beta: float = 0.1, label_smoothing: float = 0.0
) -> tuple[Tensor, Metrics]:
    """The contrast of CPO (arXiv 2401.08417): DPO with a uniform reference; its authors add
    chosen_nll with weight 1.

    l = -(1 - e) log s(d) - e log s(-d),  d = beta (chosen - rejected).
    """
    d = beta * (chosen - rejected)
    value = -(1 - label_smoothing) * logsigmoid(d) - label_smoothing * logsigmoid(-d)
    return value, reward_metrics(beta * chosen, beta * rejected)


@losses.register(per="pair")
def orpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float = 0.1,
) -> tuple[Tensor, Metrics]:
    """The odds-ratio term of ORPO (arXiv 2403.07691); its authors add chosen_nll with weight 1.

    l = -beta log s(log odds(chosen) - log odds(rejected)),  odds = p / (1 - p)

    p is the geometric mean probability of a token.
    """
    c, r = chosen / chosen_length, rejected / rejected_length
    # log odds = log p - log(1 - p); with p near 1 the difference 1 - p is formed by expm1, which
    # does not cancel.
    odds = (c - r) - ((-c.expm1()).clamp(min=1e-12).log() - (-r.expm1()).clamp(min=1e-12).log())
    return -beta * logsigmoid(odds), reward_metrics(beta * c, beta * r)


@losses.register(per="pair")
def chosen_nll(chosen: Tensor, chosen_length: Tensor) -> Tensor:
    """Likelihood of the chosen completion, to mix with a contrast: l = -chosen / |chosen|, mean
    nats a token.
    """
    return -chosen / chosen_length


# -- triples


@losses.register(per="pair")
def tpo(
    chosen: Tensor,
    rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float = 0.01,
    gamma: float = 0.5,
    form: Literal["sigmoid", "hinge", "ipo", "length"] = "sigmoid",
) -> tuple[Tensor, Metrics]:
    """The contrast of triple preference optimisation, without a reference (arXiv 2405.16681); add
    gold_nll for the third text.

    With D = chosen - rejected, and A the same of means a token
    sigmoid: l = -log s(beta D);  hinge: l = max(0, 1 - beta D);  ipo: l = (A - 1/(2 beta))^2;
    length (TPO-L): l = -log s(beta A - gamma).
    """
    averaged = form in ("ipo", "length")
    c, r = (chosen / chosen_length, rejected / rejected_length) if averaged else (chosen, rejected)
    d = c - r
    if form == "hinge":
        value = relu(1 - beta * d)
    elif form == "ipo":
        check_positive(beta=beta)
        value = (d - 1 / (2 * beta)).square()
    else:
        value = -logsigmoid(beta * d - (gamma if averaged else 0.0))
    return value, reward_metrics(beta * c, beta * r)


@losses.register(per="pair")
def gold_nll(gold: Tensor, gold_length: Tensor) -> Tensor:
    """Likelihood of a triple's reference text: l = -gold / |gold|, mean nats a token (column
    reference of the data).
    """
    return -gold / gold_length
