"""The value of a policy from a part of an episode: real steps, predicted ones, real ones again.

    V = sum_t gamma^t r_t      V_k: as V, with k rewards after step T predicted

and the bound on the error of a policy evaluated so (Benechehab et al., arXiv 2410.11711, theorem
4.2, after Janner et al., arXiv 1906.08253).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.dynamics.feature_maps import Kind
from posttrain.dynamics.forecaster import Forecaster
from posttrain.dynamics.trajectory import Trajectory, continue_features
from posttrain.errors import ConfigError, DataError

Numbers = NDArray[np.float64]


def discounted_value(rewards: ArrayLike, gamma: float) -> float:
    """sum_t gamma^t r_t.

    >>> discounted_value([1.0, 1.0, 1.0], 0.5)
    1.75
    """
    r = np.asarray(rewards, dtype=np.float64)
    return float((gamma ** np.arange(len(r)) * r).sum())


@dataclass(frozen=True, slots=True)
class PolicyValue:
    """A value with predicted rewards.

    Attributes:
        value: V, of real rewards. hybrid: V_k. context: T, steps before the predicted ones.
        horizon: k, predicted steps. predicted: [k], the rewards.
    """

    value: float
    hybrid: float
    context: int
    horizon: int
    predicted: Numbers

    @property
    def relative_error(self) -> float:
        """|V_k - V| / |V|; infinite where V is 0 and V_k is not."""
        gap = abs(self.hybrid - self.value)
        if gap == 0:
            return 0.0
        return gap / abs(self.value) if self.value else float("inf")


def hybrid_value(
    forecaster: Forecaster,
    episode: Trajectory,
    *,
    context: int,
    horizon: int,
    gamma: float = 0.99,
    map: Kind = "pca",
    num_components: int | None = None,
    seed: int = 0,
) -> PolicyValue:
    """The value of an episode whose rewards from step T to T + k - 1 are predicted by DICL-(s,a)
    over states, actions and the reward.

    Args:
        context: T, real steps that are the context. horizon: k, predicted steps.
        gamma: discount, 0 to 1.

    Raises:
        ConfigError: the episode has fewer than T + k steps.
        DataError: it has no actions or no rewards.
    """
    if context < 3 or horizon < 1 or context + horizon > len(episode):
        raise ConfigError(
            f"context {context} and horizon {horizon} of an episode of {len(episode)} steps; a "
            "context has at least 3 steps, and both together at most the episode's"
        )
    if not 0 <= gamma <= 1:
        raise ConfigError(f"gamma is {gamma}; a discount is from 0 to 1")
    if episode.rewards is None:
        raise DataError("the episode has no rewards, which are to be predicted")
    paths = continue_features(
        forecaster,
        episode[:context],
        horizon,
        "dicl_sa",
        rewards=True,
        map=map,
        num_components=num_components,
        seed=seed,
    )
    predicted = paths[0, :, -1]
    mixed = episode.rewards.copy()
    mixed[context : context + horizon] = predicted
    return PolicyValue(
        discounted_value(episode.rewards, gamma),
        discounted_value(mixed, gamma),
        context,
        horizon,
        predicted,
    )


def multi_branch_bound(
    *, gamma: float, context: int, max_reward: float, horizon: int, share: float, model_error: float
) -> float:
    """|eta(pi) - eta_model(pi)| <= 2 gamma^T / (1 - gamma) r_max k^2 p eps(T).

    Args:
        gamma: discount, below 1. context: T, steps before the model takes over.
        max_reward: r_max, bound of |reward|. horizon: k, steps of a branch.
        share: p, probability that a step is one at which a branch begins.
        model_error: eps(T), bound of the total variation of one step; it falls as T^(-1/2).
    """
    inside = 0 <= gamma < 1 and 0 <= share <= 1 and 0 <= model_error <= 1
    if not inside or context < 0 or horizon < 0 or max_reward < 0:
        raise ConfigError(
            f"gamma {gamma}, share {share}, model_error {model_error}, context {context}, horizon "
            f"{horizon}, max_reward {max_reward}; gamma is from 0 to below 1, share and error from "
            "0 to 1, the others at least 0"
        )
    return 2 * gamma**context / (1 - gamma) * max_reward * horizon**2 * share * model_error


def multi_step_error(one_step: Sequence[float]) -> float:
    """Bound of the total variation after several steps: the sum of those of one step, at most 1."""
    if any(not 0 <= error <= 1 for error in one_step):
        raise ConfigError(f"total variations are {list(one_step)}; each is from 0 to 1")
    return min(1.0, float(sum(one_step)))
