"""Dynamics in context: vICL, DICL-(s) and DICL-(s,a) (Benechehab et al., arXiv 2410.11711).

    vicl       each state feature is a series: P_pi(s'|s) = sum_a pi(a|s) P(s'|s,a)
    dicl_s     series are components of the states
    dicl_sa    series are components of states and actions (and rewards, where they are given)

Each component takes one forward pass over the context, so half of the components take half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from posttrain.dynamics.feature_maps import FeatureMap, Kind, fit_map
from posttrain.dynamics.forecaster import Forecaster, How
from posttrain.dynamics.grid import GridDistribution
from posttrain.errors import ConfigError, DataError

Numbers = NDArray[np.float64]
Learner = Literal["vicl", "dicl_s", "dicl_sa"]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One episode, or a multivariate series, which has states alone.

    Attributes:
        states: [T, D]. actions: [T, A] or None. rewards: [T] or None.
    """

    states: Numbers
    actions: Numbers | None = None
    rewards: Numbers | None = None

    def __post_init__(self) -> None:
        rows = {"states": np.asarray(self.states, dtype=np.float64)}
        for name in ("actions", "rewards"):
            value = getattr(self, name)
            if value is not None:
                rows[name] = np.asarray(value, dtype=np.float64)
        for name, array in rows.items():
            if array.ndim == 1 and name != "rewards":
                array = array[:, None]
            if len(array) != len(rows["states"]) or not np.isfinite(array).all():
                raise DataError(
                    f"{name} have the shape {array.shape} beside {len(rows['states'])} states; "
                    "there must be one row per step, all finite"
                )
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, steps: slice) -> Trajectory:
        parts = (self.states, self.actions, self.rewards)
        return Trajectory(*(None if part is None else part[steps] for part in parts))  # type: ignore[arg-type]

    def features(self, learner: Learner, *, rewards: bool = False) -> Numbers:
        """[T, D], or with actions (and rewards) as further columns [T, D + A (+ 1)].

        Raises:
            ConfigError: no such learner.
            DataError: it needs actions or rewards, and there are none.
        """
        if learner not in ("vicl", "dicl_s", "dicl_sa"):
            raise ConfigError(f"there is no learner {learner!r}; choose vicl, dicl_s or dicl_sa")
        columns = [self.states]
        if learner == "dicl_sa":
            if self.actions is None:
                raise DataError("dicl_sa: the trajectory has no actions; use vicl or dicl_s")
            columns.append(self.actions)
        if rewards:
            if self.rewards is None:
                raise DataError("the trajectory has no rewards, which are to be predicted")
            columns.append(self.rewards[:, None])
        return np.concatenate(columns, 1)


@dataclass(frozen=True, slots=True)
class StateForecast:
    """Distributions of all next states of a context.

    Attributes:
        components: C distributions over T steps. map: from components to features.
        num_states: D, features that are states; further ones are actions and rewards.
    """

    components: list[GridDistribution]
    map: FeatureMap
    num_states: int

    def point(self, how: Literal["mean", "mode"] = "mean") -> Numbers:
        """[T, D]; row t is of step t + 1."""
        rows = np.stack([getattr(law, how) for law in self.components], 1)
        return self.map.decode(rows)[:, : self.num_states]

    def samples(self, count: int, draw: np.random.Generator) -> Numbers:
        """[count, T, D], with components drawn independently of each other."""
        rows = np.stack([law.sample(count, draw) for law in self.components], -1)
        return self.map.decode(rows)[..., : self.num_states]


def forecast_states(
    forecaster: Forecaster,
    context: Trajectory,
    learner: Learner = "dicl_s",
    *,
    map: Kind = "pca",
    num_components: int | None = None,
    seed: int = 0,
) -> StateForecast:
    """Distributions of the next state after each step of a context.

    Args:
        context: of T steps. learner: vicl takes no map.
        map: from features to components. num_components: C; None is all.
        seed: of maps that are drawn.
    """
    features = context.features(learner)
    kind: Kind = "identity" if learner == "vicl" else map
    fitted = fit_map(features, kind, None if learner == "vicl" else num_components, seed=seed)
    laws = forecaster.forecast(list(fitted.encode(features).T))
    return StateForecast(laws, fitted, context.states.shape[1])


def continue_features(
    forecaster: Forecaster,
    context: Trajectory,
    steps: int,
    learner: Learner = "dicl_sa",
    *,
    rewards: bool = False,
    map: Kind = "pca",
    num_components: int | None = None,
    how: How = "mean",
    num_paths: int = 1,
    seed: int = 0,
) -> Numbers:
    """All features of further steps, each component continued on its own forecasts.

    Returns:
        [num_paths, steps, D (+ A) (+ 1)]: states, actions, rewards.
    """
    features = context.features(learner, rewards=rewards)
    kind: Kind = "identity" if learner == "vicl" else map
    fitted = fit_map(features, kind, None if learner == "vicl" else num_components, seed=seed)
    paths = forecaster.continued(
        list(fitted.encode(features).T), steps, how=how, num_paths=num_paths, seed=seed
    )
    return fitted.decode(np.stack(paths, -1))
