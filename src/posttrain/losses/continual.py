"""Losses of continual alignment: fitting an optimal policy, and staying near the stage before."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from posttrain.losses.inputs import Metrics
from posttrain.registry import losses


def two_way_kl(log_odds: Tensor, target: Tensor) -> Tensor:
    """KL between choices of two: s(d) of the policy, s(z) of the target, from log-odds d and z.

    s(d) (log s(d) - log s(z)) + s(-d) (log s(-d) - log s(-z)), nats. Any shape.
    """
    first = log_odds.sigmoid() * (logsigmoid(log_odds) - logsigmoid(target))
    second = (-log_odds).sigmoid() * (logsigmoid(-log_odds) - logsigmoid(-target))
    return first + second


@losses.register(per="pair")
def copr(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float = 0.1,
) -> tuple[Tensor, Metrics]:
    """Continual optimal policy regularisation (COPR, arXiv 2310.15694), on pairs.

    l = KL(s(d) || s(z)),  d = log pi(c) - log pi(r),  z = log ref(c) - log ref(r) + 1 / beta

    The optimal policy ref exp(A / beta) / Z with the linear advantage A = (2 j - J - 1) / J of the
    j-th of J completions is renormalised over those completions, so that Z falls out; of a pair
    A = 1/2 and -1/2. The policy renormalised in the same way is fitted to it. The loss is 0 at the
    optimum and, unlike that of DPO, the log-ratio does not grow beyond it. [Q] -> [Q], nats.

    beta: how near the optimal policy stays to the reference.
    """
    if not beta > 0:
        raise ValueError(f"beta is {beta}; it must be above 0, .1 is usual")
    d, reference = chosen - rejected, ref_chosen - ref_rejected
    value = two_way_kl(d, reference + 1 / beta)
    margin = (d - reference).detach()
    return value, {"rewards/margins": beta * margin, "rewards/accuracies": (margin > 0).float()}


@losses.register(per="token")
def knowledge_retention(
    logprobs: Tensor, ref_logprobs: Tensor, retention_weight: Tensor
) -> tuple[Tensor, Metrics]:
    """CPPO's term of knowledge retention (Zhang et al., ICLR 2024).

    l_t = w (log pi(y_t) - log ref(y_t))^2

    The reference is the policy that the stage before left, and w the weight of the completion,
    which retention method `cppo` gives. [M], nats -> [M].
    """
    gap = (logprobs - ref_logprobs).square()
    return retention_weight * gap, {"retention_weight": retention_weight}
