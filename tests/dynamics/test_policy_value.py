"""Values with predicted rewards, and the bound: hand-worked numbers."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.dynamics.forecaster import Forecaster
from posttrain.dynamics.policy_value import (
    discounted_value,
    hybrid_value,
    multi_branch_bound,
    multi_step_error,
)
from posttrain.dynamics.trajectory import Trajectory
from posttrain.errors import ConfigError, DataError
from posttrain.models.language_model import LanguageModel

DRAW = np.random.default_rng(0)
EPISODE = Trajectory(
    DRAW.standard_normal((20, 2)), DRAW.standard_normal(20), DRAW.standard_normal(20)
)


def test_rewards_between_context_and_horizon_are_predicted(integer_model: LanguageModel) -> None:
    result = hybrid_value(Forecaster(integer_model), EPISODE, context=12, horizon=3, gamma=0.9)
    rewards = np.array(EPISODE.rewards)
    assert result.value == pytest.approx(discounted_value(rewards, 0.9))
    change = (0.9 ** np.arange(12, 15) * (result.predicted - rewards[12:15])).sum()
    assert result.hybrid - result.value == pytest.approx(change)
    assert result.relative_error == pytest.approx(abs(change) / abs(result.value))


def test_the_bound_by_hand() -> None:
    bound = multi_branch_bound(
        gamma=0.5, context=2, max_reward=3, horizon=2, share=0.5, model_error=0.1
    )
    assert bound == pytest.approx(2 * 0.25 / 0.5 * 3 * 4 * 0.5 * 0.1)
    assert multi_step_error([0.1, 0.25]) == pytest.approx(0.35)
    assert multi_step_error([0.7, 0.8]) == 1.0


def test_wrong_numbers_are_refused(integer_model: LanguageModel) -> None:
    forecaster = Forecaster(integer_model)
    for settings in (
        {"context": 18, "horizon": 3},
        {"context": 2, "horizon": 3},
        {"context": 12, "horizon": 3, "gamma": 1.5},
    ):
        with pytest.raises(ConfigError):
            hybrid_value(forecaster, EPISODE, **settings)  # type: ignore[arg-type]
    with pytest.raises(DataError):
        hybrid_value(forecaster, Trajectory(EPISODE.states), context=12, horizon=3)
    with pytest.raises(ConfigError):
        multi_branch_bound(
            gamma=1.0, context=2, max_reward=3, horizon=2, share=0.5, model_error=0.1
        )
    with pytest.raises(ConfigError):
        multi_step_error([1.5])
