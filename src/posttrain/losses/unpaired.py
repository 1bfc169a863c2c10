"""Losses of single completions that are desirable or not, with a frozen reference.

Inputs, each [S], one number a completion: `logprob`, `ref_logprob`, sums over its tokens in nats;
`label`, 1 desirable and 0 undesirable; `kl` and `shift`, numbers of the whole step, the same for
all its sequences and without gradient. Throughout x = logprob - ref_logprob  is a log-ratio, and s
is the logistic function.
"""

from __future__ import annotations

from torch import Tensor, where
from torch.nn.functional import logsigmoid

from posttrain.losses.inputs import Metrics
from posttrain.registry import losses


def _metrics(reward: Tensor, label: Tensor) -> Metrics:
    """The implied rewards of each kind (TRL's names)."""
    reward = reward.detach()
    return {"rewards/chosen": reward[label > 0.5], "rewards/rejected": reward[label <= 0.5]}


@losses.register(per="sequence")
def kto(
    logprob: Tensor,
    ref_logprob: Tensor,
    label: Tensor,
    kl: Tensor,
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[Tensor, Metrics]:
    """Kahneman-Tversky optimisation: gains and losses against a point of reference (arXiv
    2402.01306).

    desirable:    l = desirable_weight (1 - s(beta (x - kl)))
    undesirable:  l = undesirable_weight (1 - s(beta (kl - x)))
    kl >= 0 estimates KL(pi || ref) by the log-ratios of completions that belong to other prompts.
    """
    x = logprob - ref_logprob
    gain = beta * (x - kl)
    value = where(
        label > 0.5, desirable_weight * (-gain).sigmoid(), undesirable_weight * gain.sigmoid()
    )
    return value, {**_metrics(beta * x, label), "kl": kl}


@losses.register(per="sequence")
def apo_zero_unpaired(
    logprob: Tensor, ref_logprob: Tensor, label: Tensor, *, beta: float = 0.1
) -> tuple[Tensor, Metrics]:
    """Anchored preference optimisation of single completions (arXiv 2408.06266).

    desirable: l = 1 - s(beta x);  undesirable: l = s(beta x).
    """
    reward = beta * (logprob - ref_logprob)
    return where(label > 0.5, (-reward).sigmoid(), reward.sigmoid()), _metrics(reward, label)


@losses.register(per="sequence")
def bco(
    logprob: Tensor, ref_logprob: Tensor, label: Tensor, shift: Tensor, *, beta: float = 0.1
) -> tuple[Tensor, Metrics]:
    """Binary classifier optimisation: implied rewards tell desirable from undesirable (arXiv
    2404.04656).

    desirable:    l = -log s(beta (x - shift))
    undesirable:  l = -log s(-beta (x - shift))

    shift is the middle between the running means of x over both kinds.
    """
    x = logprob - ref_logprob
    metrics = {**_metrics(beta * x, label), "rewards/shift": beta * shift}
    return -logsigmoid(where(label > 0.5, beta, -beta) * (x - shift)), metrics
