"""`pt.dicl_sac`: an environment by name or as an object."""

from __future__ import annotations

from pathlib import Path

import pytest

import posttrain as pt
from posttrain.control.environments import LinearSystem
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel

SETTINGS = {"num_steps": 100, "batch_size": 8, "start_steps": 50, "updates_per_step": 0.1}


def test_an_environment_by_name_and_as_an_object_are_the_same(tmp_path: Path) -> None:
    control = pt.Control(**SETTINGS, sac=pt.SAC(hidden=8))
    first = pt.dicl_sac("linear", control, output=tmp_path)
    second = pt.dicl_sac(LinearSystem(), control)
    assert first.returns == second.returns and len(first.returns) == 2
    assert (tmp_path / "control.json").is_file() and (tmp_path / "checkpoint").is_dir()


def test_a_model_forecasts(integer_model: LanguageModel) -> None:
    control = pt.Control(
        **SETTINGS,
        sac=pt.SAC(hidden=8),
        predicted_share=0.5,
        predict_after=1,
        min_episodes=1,
        window=16,
        predict_every=50,
    )
    assert pt.dicl_sac("linear", control, model=integer_model).num_predicted == 32


def test_a_model_without_a_share_is_refused(integer_model: LanguageModel) -> None:
    with pytest.raises(ConfigError):
        pt.dicl_sac("linear", pt.Control(**SETTINGS), model=integer_model)
