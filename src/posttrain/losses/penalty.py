"""Terms that hold the policy back or keep it wide: KL to a reference, entropy."""

from __future__ import annotations

from typing import Literal

from posttrain.losses.inputs import Metrics, PerToken
from posttrain.registry import losses


@losses.register
def kl(logprobs, ref_logprobs, *, estimator: Literal["k1", "k2", "k3"] = "k3") -> tuple[PerToken, Metrics]:
    """Per-token estimate of KL(pi || ref) on tokens that pi sampled (Schulman, "Approximating KL divergence", 2020).

    With d = log ref - log pi:  k1 = -d;  k2 = d^2 / 2;  k3 = e^d - d - 1 (unbiased, never negative; GRPO's choice).
    As a loss, the gradient of k1 is zero on average: use k2 or k3. Inputs [M], nats -> [M], nats.
    """
    difference = ref_logprobs - logprobs
    if estimator == "k1":
        value = -difference
    elif estimator == "k2":
        value = difference.square() / 2
    else:
        value = difference.exp() - difference - 1
    return value, {"kl": value.detach()}


@losses.register
def entropy_bonus(entropy) -> PerToken:
    """l_t = -H[pi(. | x, y_<t)]: with a positive weight the policy is kept wide. entropy [M], nats -> [M]."""
    return -entropy
