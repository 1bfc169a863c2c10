"""Losses of pairs: DPO and its relatives, a chosen and a rejected completion of one prompt.

Inputs, each [P], one number a pair, in nats: `chosen`, `rejected`, the log-probabilities of the
whole completions (sums over their tokens); `ref_chosen`, `ref_rejected`, the same under the frozen
reference; `chosen_length`, `rejected_length`, tokens;
`gold`, `gold_length` of a triple's reference text; `margin`, how far apart the data say that the
two are. Throughout  c = chosen - ref_chosen  and  r = rejected - ref_rejected  are log-ratios, and
s is the logistic function. Losses that take `divergence` read f(c) and f(r) of `divergence.score`
instead; the rewards in the metrics stay beta c, beta r.
"""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, where
from torch.nn.functional import logsigmoid, relu

from posttrain.losses.divergence import Divergence, score
from posttrain.losses.exponential import bounded_exp
from posttrain.losses.inputs import Metrics
from posttrain.losses.settings import check_positive
from posttrain.registry import losses


def reward_metrics(chosen_reward: Tensor, rejected_reward: Tensor) -> Metrics:
    """Metrics of every loss of pairs, under TRL's names: implied rewards, their margin, and whether
    the chosen one is ahead.
    """
    c, r = chosen_reward.detach(), rejected_reward.detach()
    return {
        "rewards/chosen": c,
        "rewards/rejected": r,
        "rewards/margins": c - r,
        "rewards/accuracies": (c > r).to(c.dtype),
    }


@losses.register(per="pair")
def dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    divergence: Divergence = "reverse_kl",
    alpha: float | None = None,
) -> tuple[Tensor, Metrics]:
    """Direct preference optimisation (arXiv 2305.18290), also conservative DPO and f-DPO.

    l = -(1 - e) log s(beta D) - e log s(-beta D),  D = f(c) - f(r)

    e = label_smoothing: the share of labels believed to be the wrong way round.
    f belongs to the divergence that holds the policy to its reference (f-DPO, arXiv 2309.16240):

      reverse_kl:  f(x) = x
      forward_kl:  f(x) = 1 - e^-x
      js:          f(x) = log 2 + log s(x)
      alpha:       f(x) = (e^((alpha-1) x) - 1) / (alpha - 1), alpha at most 1; None is 0.5

    alpha 0 is forward_kl, 1 is reverse_kl. Exponentials are bounded beyond e^80. At the start
    l = log 2.
    """
    c, r = chosen - ref_chosen, rejected - ref_rejected
    d = beta * (score(c, divergence, alpha) - score(r, divergence, alpha))
    return -(1 - label_smoothing) * logsigmoid(d) - label_smoothing * logsigmoid(
        -d
    ), reward_metrics(beta * c, beta * r)


@losses.register(per="pair")
def odpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    margin: Tensor,
    *,
    beta: float = 0.1,
    alpha: float = 1.0,
) -> tuple[Tensor, Metrics]:
    """DPO with an offset: clearer preferences must be further apart (arXiv 2402.10571).

    l = -log s(beta (c - r) - alpha margin), margin from the data's column of that name.
    """
    c, r = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    return -logsigmoid(c - r - alpha * margin), reward_metrics(c, r)


@losses.register(per="pair")
def tdpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    chosen_forward_kl: Tensor,
    rejected_forward_kl: Tensor,
    *,
    beta: float = 0.1,
    alpha: float = 0.5,
    version: Literal[1, 2] = 2,
) -> tuple[Tensor, Metrics]:
    """Token-level DPO: sequential KL keeps both completions near the reference at every token
    (arXiv 2404.11999).

    With D(y) = sum_t KL(ref(. | x, y_<t) || pi(. | x, y_<t)), and sg holding its argument constant:

    TDPO1: l = -log s(beta (c - r) - beta (D(rejected) - D(chosen)))
    TDPO2: l = -log s(beta (c - r) - alpha beta (D(rejected) - sg[D(chosen)])).
    """
    c, r = chosen - ref_chosen, rejected - ref_rejected
    if version == 1:
        shift = rejected_forward_kl - chosen_forward_kl
    else:
        shift = alpha * (rejected_forward_kl - chosen_forward_kl.detach())
    kls = {"kl/chosen": chosen_forward_kl.detach(), "kl/rejected": rejected_forward_kl.detach()}
    return -logsigmoid(beta * (c - r - shift)), reward_metrics(beta * c, beta * r) | kls


@losses.register(per="pair")
def robust_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.1,
    divergence: Divergence = "reverse_kl",
    alpha: float | None = None,
) -> tuple[Tensor, Metrics]:
    """DPO that is unbiased when a share e = label_smoothing below one half of the labels is flipped
    (arXiv 2403.00409).

    l = (-(1 - e) log s(beta D) + e log s(-beta D)) / (1 - 2 e),  D = f(c) - f(r)

    f by divergence as in dpo.
    """
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"label_smoothing is {label_smoothing}; it is the share of flipped labels, at least 0 "
            "and below 0.5"
        )
    c, r = chosen - ref_chosen, rejected - ref_rejected
    d = beta * (score(c, divergence, alpha) - score(r, divergence, alpha))
    value = (label_smoothing * logsigmoid(-d) - (1 - label_smoothing) * logsigmoid(d)) / (
        1 - 2 * label_smoothing
    )
    return value, reward_metrics(beta * c, beta * r)


@losses.register(per="pair")
def dpo_norm(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float = 2.0,
    divergence: Divergence = "reverse_kl",
    alpha: float | None = None,
) -> tuple[Tensor, Metrics]:
    """Length-normalised DPO (Tulu 3, arXiv 2411.15124).

    l = -log s(beta (f(c) / |chosen| - f(r) / |rejected|)), f by divergence as in dpo. The rewards
    in the metrics are per token, beta c / |chosen|.
    """
    c, r = chosen - ref_chosen, rejected - ref_rejected
    d = score(c, divergence, alpha) / chosen_length - score(r, divergence, alpha) / rejected_length
    return -logsigmoid(beta * d), reward_metrics(
        beta * c / chosen_length, beta * r / rejected_length
    )


@losses.register(per="pair")
def r_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float = 0.1,
    alpha: float = 0.01,
) -> tuple[Tensor, Metrics]:
    """DPO with a length term that takes the pull of longer completions away (arXiv 2403.19159).

    l = -log s(beta (c - r) + alpha (|chosen| - |rejected|)): where the chosen one is longer, less
    is left to learn.
    """
    c, r = chosen - ref_chosen, rejected - ref_rejected
    return -logsigmoid(beta * (c - r) + alpha * (chosen_length - rejected_length)), reward_metrics(
        beta * c, beta * r
    )


@losses.register(per="pair")
def dpop(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float = 0.1,
    penalty: float = 50.0,
) -> tuple[Tensor, Metrics]:
    """DPO-positive, which keeps the chosen completion from losing probability (Smaug, arXiv
    2402.13228).

    l = -log s(beta (c - r - penalty max(0, -c))).
    """
    c, r = chosen - ref_chosen, rejected - ref_rejected
    return -logsigmoid(beta * (c - r - penalty * relu(-c))), reward_metrics(beta * c, beta * r)


@losses.register(per="pair")
def ipo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    *,
    beta: float = 0.1,
    divergence: Divergence = "reverse_kl",
    alpha: float | None = None,
) -> tuple[Tensor, Metrics]:
    """Identity preference optimisation (arXiv 2310.12036), on log-ratios a token as its authors'
    code has it.

    l = (f(c) / |chosen| - f(r) / |rejected| - 1/(2 beta))^2: the gap is driven to a finite goal
    instead of to infinity. f by divergence as in dpo. The rewards in the
    metrics are per token, beta c / |chosen|.
    """
    check_positive(beta=beta)
    c, r = chosen - ref_chosen, rejected - ref_rejected
    f_c, f_r = (score(x, divergence, alpha, power=2) for x in (c, r))
    d = f_c / chosen_length - f_r / rejected_length
    return (d - 1 / (2 * beta)).square(), reward_metrics(
        beta * c / chosen_length, beta * r / rejected_length
    )


@losses.register(per="pair")
def hinge_dpo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float = 0.1,
    divergence: Divergence = "reverse_kl",
    alpha: float | None = None,
) -> tuple[Tensor, Metrics]:
    """The hinge of SLiC with DPO's log-ratios (arXiv 2309.06657).

    l = max(0, 1 - beta (f(c) - f(r))), f by divergence as in dpo.
    """
    c, r = chosen - ref_chosen, rejected - ref_rejected
    return relu(
        1 - beta * (score(c, divergence, alpha) - score(r, divergence, alpha))
    ), reward_metrics(beta * c, beta * r)


@losses.register(per="pair")
def exo(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float = 0.1,
    label_smoothing: float = 1e-3,
    divergence: Divergence = "reverse_kl",
    alpha: float | None = None,
) -> tuple[Tensor, Metrics]:
    """Exact optimisation: reverse KL between the pair's two-way distributions (arXiv 2402.00856).

    l = s(d) (log s(d) - log(1 - e)) + s(-d) (log s(-d) - log e),  d = beta (f(c) - f(r))

    f by divergence as in dpo; e = label_smoothing, above 0.
    """
    if not 0 < label_smoothing < 1:
        raise ValueError(
            f"label_smoothing is {label_smoothing}; of exo it must be above 0 (1e-3 is usual) and "
            "below 1"
        )
    c, r = chosen - ref_chosen, rejected - ref_rejected
    d = beta * (score(c, divergence, alpha) - score(r, divergence, alpha))
    up = d.sigmoid() * (logsigmoid(d) - math.log1p(-label_smoothing))
    down = (-d).sigmoid() * (logsigmoid(-d) - math.log(label_smoothing))
    return up + down, reward_metrics(beta * c, beta * r)


@losses.register(per="pair")
def discopop(
    chosen: Tensor,
    rejected: Tensor,
    ref_chosen: Tensor,
    ref_rejected: Tensor,
    *,
    beta: float = 0.05,
    temperature: float = 0.05,
    divergence: Divergence = "reverse_kl",
    alpha: float | None = None,
) -> tuple[Tensor, Metrics]:
    """DiscoPOP's log-ratio modulated loss, found by a search over programs (arXiv 2406.08414).

    l = (1 - m) (-log s(d)) + m e^-d,  m = s(d / temperature), d = beta (f(c) - f(r))

    f by divergence as in dpo.
    """
    check_positive(temperature=temperature)
    c, r = chosen - ref_chosen, rejected - ref_rejected
    d = beta * (score(c, divergence, alpha) - score(r, divergence, alpha))
    mix = (d / temperature).sigmoid()
    # m e^-d as a product where both factors can be formed, and by logarithms where e^-d cannot.
    near = d > -60
    modulated = mix * where(near, -d, 0.0).exp()
    far = bounded_exp(where(near, 0.0, logsigmoid(d / temperature) - d))
    value = -(1 - mix) * logsigmoid(d) + where(near, modulated, far)
    return value, reward_metrics(beta * c, beta * r)
