"""Baselines that need no other completion of the same prompt (shapes: see the package)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from posttrain.advantages.group import Array, nan_statistics
from posttrain.registry import advantages


@advantages.register
def no_baseline(rewards: Array) -> NDArray[np.float64]:
    """REINFORCE as it stands: A_i = r_i (Williams 1992). rewards [P, G] -> [P, G]."""
    return np.nan_to_num(rewards)


@advantages.register
def batch_mean(
    rewards: Array, *, scale: bool = False, epsilon: float = 1e-4
) -> NDArray[np.float64]:
    """A_i = r_i - mean over the step; with scale divided by its standard deviation + epsilon.
    rewards [P, G] -> [P, G].
    """
    mean, std = nan_statistics(rewards, axis=None)
    centred = rewards - mean
    return np.nan_to_num(centred / (std + epsilon) if scale else centred)


@advantages.register
def moving_average(
    rewards: Array, baseline: float, *, decay: float = 0.9
) -> tuple[NDArray[np.float64], float]:
    """REINFORCE with a moving average: A_i = r_i - b.

    Then b = decay b + (1 - decay) mean of the step. At first b is the step's own mean; a step
    without any reward leaves it as it is. b is saved with checkpoints. rewards [P, G], baseline a
    number -> ([P, G], next baseline).
    """
    if np.isnan(rewards).all():
        return np.zeros_like(rewards), baseline
    mean = float(nan_statistics(rewards, axis=None)[0].item())
    b = mean if math.isnan(baseline) else baseline
    return np.nan_to_num(rewards - b), decay * b + (1 - decay) * mean


@advantages.register
def greedy_baseline(rewards: Array, greedy_rewards: Array) -> NDArray[np.float64]:
    """SCST's and ReMax's advantage: A_i = r_i - reward of the greedy completion (arXiv 1612.00563;
    arXiv 2310.10505).

    The method samples one more completion of each prompt, at temperature 0. rewards [P, G],
    greedy_rewards [P] -> [P, G].
    """
    return np.nan_to_num(rewards - greedy_rewards[:, None])
