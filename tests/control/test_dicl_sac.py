"""Runs of SAC and DICL-SAC: learning, dual replay, exact resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from posttrain.control.dicl_sac import ControlConfig, ControlResult, ControlRun
from posttrain.control.environments import LinearSystem
from posttrain.control.sac import SACConfig
from posttrain.dynamics.forecaster import Forecaster
from posttrain.errors import CheckpointError, ConfigError
from posttrain.models.language_model import LanguageModel

SMALL = SACConfig(hidden=16, policy_rate=3e-3, critic_rate=3e-3, start_alpha=0.1)


def config(**changes: object) -> ControlConfig:
    settings: dict[str, object] = {
        "num_steps": 120,
        "batch_size": 16,
        "start_steps": 40,
        "predict_after": 40,
        "min_episodes": 2,
        "window": 12,
        "predict_every": 10,
        "sac": SMALL,
    }
    return ControlConfig(**{**settings, **changes})  # type: ignore[arg-type]


def test_the_linear_system_is_learnt() -> None:
    settings = config(num_steps=1500, start_steps=200, updates_per_step=0.5)
    result = ControlRun(LinearSystem(50), settings).run()
    assert len(result.returns) == 30 and result.steps[-1] == 1500
    assert result.mean_return(0.7, 1.0) > result.mean_return(0.0, 0.15) + 1


def test_predicted_transitions_are_those_of_the_window(integer_model: LanguageModel) -> None:
    run = ControlRun(LinearSystem(20), config(predicted_share=0.25), Forecaster(integer_model))
    result = run.run()
    # From the second episode (40 steps) on: 2 windows of 12 states per episode of 20 steps.
    assert result.num_predicted == len(run.predicted) == 5 * 2 * 12
    assert np.isnan(result.forecast_error[0]) and np.isfinite(result.forecast_error[1:]).all()
    seen = {tuple(row) for row in run.real.columns["states"][: len(run.real)].tolist()}
    rows = run.predicted.columns["states"][: len(run.predicted)].tolist()
    assert all(tuple(row) in seen for row in rows)
    taken = run.real.columns["actions"][: len(run.real), 0].tolist()
    assert not set(run.predicted.columns["actions"][: len(run.predicted), 0].tolist()) & set(taken)


def test_only_the_best_forecasts_are_kept(integer_model: LanguageModel) -> None:
    settings = config(predicted_share=0.25, keep_share=0.5, burn_in=2)
    run = ControlRun(LinearSystem(20), settings, Forecaster(integer_model))
    assert run.run().num_predicted == 5 * 2 * 5


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_a_resumed_run_is_the_undisturbed_one(
    share: float, tmp_path: Path, integer_model: LanguageModel
) -> None:
    def make() -> ControlRun:
        forecaster = Forecaster(integer_model) if share else None
        return ControlRun(LinearSystem(20), config(predicted_share=share), forecaster)

    whole = make()
    whole.run()
    make().run(tmp_path, stop=lambda result: len(result.returns) == 3)
    resumed = make()
    result = resumed.run(tmp_path, resume=True)
    assert result.returns == whole.result.returns
    for one, two in zip(
        whole.agent.actor.parameters(), resumed.agent.actor.parameters(), strict=True
    ):
        assert torch.equal(one, two)
    assert (tmp_path / "control.json").is_file()
    other = ControlRun(LinearSystem(20), config(batch_size=8))
    with pytest.raises(CheckpointError):
        other.run(tmp_path, resume=True)


def test_parts_of_a_curve() -> None:
    result = ControlResult([1.0, 2.0, 6.0], [10, 20, 30])
    assert result.mean_return(0, 0.4) == 1.0 and result.mean_return() == 3.0
    assert np.isnan(ControlResult().mean_return())


def test_what_does_not_fit_is_refused(integer_model: LanguageModel) -> None:
    with pytest.raises(ConfigError):
        ControlRun(LinearSystem(20), config(predicted_share=0.25))
    with pytest.raises(ConfigError):
        ControlRun(LinearSystem(20), config(), Forecaster(integer_model))
    with pytest.raises(ConfigError):
        settings = config(predicted_share=0.25, window=20)
        ControlRun(LinearSystem(20), settings, Forecaster(integer_model))
    for wrong in ({"num_steps": 0}, {"predicted_share": 2.0}, {"burn_in": 11}):
        with pytest.raises(ConfigError):
            config(**wrong)
