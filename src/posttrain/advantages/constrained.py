"""Two objectives: a reward, and a cost that has to stay below a bound."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from posttrain.advantages.group import Array, nan_statistics
from posttrain.errors import ConfigError
from posttrain.registry import advantages


@advantages.register(kl_in_reward=False)
def lagrangian(
    reward_table: Array,
    reward_weights: Array,
    baseline: float,
    *,
    max_cost: float = 0.0,
    rate: float = 0.1,
    initial_weight: float = 1.0,
    epsilon: float = 1e-4,
) -> tuple[NDArray[np.float64], float]:
    """A reward under a constraint on a cost, by a Lagrange weight (Safe RLHF, arXiv 2310.12773).

        A = (Z(R) - b Z(C)) / (1 + b),   log b += rate (mean C - max_cost)

    The last reward of the recipe is the cost C, such as the share of unsafe completions; R is the
    weighted sum of all others. Z(x) = (x - mean) / (std + epsilon) over the group, so that neither
    objective's scale counts. The weight b grows as long as the cost is above its bound, and falls
    below it. It is the estimator's state, and saved with checkpoints. A completion without a cost
    or a reward has the advantage 0. reward_table [P, G, F], reward_weights [F] -> ([P, G], next b).

    max_cost: bound of the mean cost. rate: how fast log b follows. initial_weight: b at first.
    """
    if reward_table.shape[2] < 2:
        raise ConfigError(
            "advantage lagrangian: there is one reward; name at least two, of which the last is "
            "the cost"
        )
    b = initial_weight if math.isnan(baseline) else baseline
    cost = reward_table[:, :, -1]
    others = reward_table[:, :, :-1] * reward_weights[:-1]
    reward = np.where(np.isnan(others).all(axis=2), np.nan, np.nansum(others, axis=2))
    known = ~(np.isnan(reward) | np.isnan(cost))
    reward, cost = np.where(known, reward, np.nan), np.where(known, cost, np.nan)
    result = (_scaled(reward, epsilon) - b * _scaled(cost, epsilon)) / (1 + b)
    if not known.any():
        return np.zeros_like(result), b
    return np.nan_to_num(result), b * math.exp(rate * (float(np.nanmean(cost)) - max_cost))


def _scaled(values: Array, epsilon: float) -> NDArray[np.float64]:
    mean, std = nan_statistics(values, axis=1)
    return np.asarray((values - mean) / (std + epsilon))
