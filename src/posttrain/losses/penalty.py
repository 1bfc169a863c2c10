"""Terms that hold the policy back or keep it wide: KL to a reference, entropy."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, where

from posttrain.losses.exponential import bounded_exp
from posttrain.losses.inputs import Metrics
from posttrain.losses.policy import Level, log_ratio
from posttrain.registry import losses

Estimator = Literal["k1", "k2", "k3"]
"""An estimate of KL from single tokens: see `kl_estimate`."""


def kl_estimate(difference: Tensor, estimator: Estimator) -> Tensor:
    """k1 = -d, k2 = d^2 / 2 or k3 = e^d - d - 1 of d = log ref - log pi."""
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    return bounded_exp(difference) - difference - 1


@losses.register(per="token")
def kl(
    logprobs: Tensor, ref_logprobs: Tensor, *, estimator: Estimator = "k3"
) -> tuple[Tensor, Metrics]:
    """Per-token estimate of KL(pi || ref) on tokens that pi sampled (Schulman, "Approximating KL
    divergence", 2020).

    With d = log ref - log pi:  k1 = -d;  k2 = d^2 / 2;  k3 = e^d - d - 1

    k3 is unbiased and never negative: GRPO's choice. As a loss, the gradient of k1 is zero on
    average: use k2 or k3. Inputs [M], nats -> [M], nats.
    """
    value = kl_estimate(ref_logprobs - logprobs, estimator)
    return value, {"kl": value.detach()}


@losses.register(per="token")
def kl_corrected(
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    estimator: Estimator = "k3",
    level: Level = "token",
) -> tuple[Tensor, Metrics]:
    """`kl` with the importance ratio as a weight, which makes its gradient unbiased (DeepSeek-V3.2,
    arXiv 2512.02556).

    l = r k,  r = pi / pi_old with its gradient

    The mean of r k over samples of pi_old is the KL divergence of pi itself. Differentiating
    through r makes that hold for the gradient. level as in `clipped`.
    Inputs [M], nats -> [M], nats.
    """
    log_r = log_ratio(logprobs, old_logprobs, sequence, num_sequences, level)
    difference = ref_logprobs - logprobs
    ratio = bounded_exp(log_r, power=2)
    if estimator == "k3":
        # Where e^d is large, r e^d is formed by logarithms: a small r makes it ordinary again.
        far = difference > 40
        near = ratio * kl_estimate(where(far, 0.0, difference), estimator)
        value = where(far, bounded_exp(log_r + difference) - ratio * (difference + 1), near)
    else:
        value = ratio * kl_estimate(difference, estimator)
    return value, {"kl": value.detach()}


@losses.register(per="token")
def entropy_bonus(entropy: Tensor) -> Tensor:
    """l_t = -H[pi(. | x, y_<t)]: with a positive weight the policy is kept wide. entropy [M],
    nats -> [M].
    """
    return -entropy


@losses.register(per="token")
def adaptive_entropy(
    entropy: Tensor, reward_variance: Tensor, *, scale: float = 0.01, rate: float = 1.0
) -> tuple[Tensor, Metrics]:
    """An entropy bonus that is larger where the rewards of a prompt's completions differ less.

    l = -lambda H,  lambda = scale e^(-rate Var R)

    Var R is the variance of the group's rewards (survey of post-training, arXiv 2503.06072,
    eq. 22). All inputs [M] -> [M].
    """
    if rate < 0:
        raise ValueError(
            f"rate is {rate}; it must not be negative, or the bonus grows with the variance"
        )
    weight = scale * (-rate * reward_variance).exp()
    return -weight * entropy, {"entropy_weight": weight}


@losses.register(per="token")
def weighted_entropy(entropy: Tensor, entropy_weight: Tensor) -> tuple[Tensor, Metrics]:
    """l = -w H with the weight w that the method steers towards a target entropy (credit:
    {target_entropy: ...}).

    As Skywork-OR1 does (arXiv 2505.22312). All inputs [M] -> [M].
    """
    return -entropy_weight * entropy, {"entropy_weight": entropy_weight}
