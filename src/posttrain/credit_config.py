"""Settings of credit: what is done to rewards and advantages beside estimating."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from posttrain.typecheck import described


@described("Credit")
@dataclass(frozen=True, slots=True)
class CreditConfig:
    """How rewards and advantages are changed before the loss (policy gradients).

    Attributes:
        reward_clip: [low, high] bounds of a completion's reward.
        whiten: normalise advantages to mean 0 and deviation 1 over all tokens of a step.
        kl_weight: weight of the KL to the reference in the reward of each token.
        kl_estimator: estimator of that KL; k1 is log pi - log ref.
        kl_target: KL in nats per completion that kl_weight is adapted to (arXiv 1909.08593).
        kl_gain: how fast kl_weight follows kl_target.
        importance_correction: what happens to tokens or sequences whose probability under the
            engine differs from the policy's: "truncate" bounds their weights by
            importance_clip_max, "mask" leaves out what is beyond it.
        importance_clip_max: largest importance weight.
        importance_clip_min: smallest importance weight of "mask"; what is below it is left out too
            (IcePop).
        importance_normalize: divide the importance weights of a step by their mean.
        rejection: tokens or sequences that are not trained on, because their log-probs under the
            engine and the policy differ too much: d, d^2 / 2 or exp(d) - 1 - d (k1, k2, k3) of the
            difference d, of each token, or its sum, mean or maximum over a sequence.
        rejection_max: largest such number that is accepted, in nats.
        rejection_min: smallest one of k1. None is the negative of rejection_max.
        top_entropy: share of the tokens that are trained, those of highest entropy (arXiv
            2506.01939).
        target_entropy: entropy in nats that the loss weighted_entropy aims at (Skywork-OR1, arXiv
            2505.22312).
        entropy_weight: weight of weighted_entropy at the start.
        entropy_change: change of that weight per step.
    """

    reward_clip: list[float] | None = None
    whiten: bool = False
    kl_weight: float = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    kl_target: float | None = None
    kl_gain: float = 0.1
    importance_correction: Literal[
        "none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"
    ] = "none"
    importance_clip_max: float = 3.0
    importance_clip_min: float = 0.0
    importance_normalize: bool = False
    rejection: Literal[
        "none",
        "token_k1",
        "token_k2",
        "token_k3",
        "sequence_sum_k1",
        "sequence_sum_k2",
        "sequence_sum_k3",
        "sequence_mean_k1",
        "sequence_mean_k2",
        "sequence_mean_k3",
        "sequence_max_k2",
        "sequence_max_k3",
    ] = "none"
    rejection_max: float = 1.0
    rejection_min: float | None = None
    top_entropy: float = 1.0
    target_entropy: float | None = None
    entropy_weight: float = 0.0
    entropy_change: float = 0.005
