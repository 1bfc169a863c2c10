"""The settings of `fit` are those of a recipe."""

from __future__ import annotations

import dataclasses

import pytest

from posttrain.config import Recipe
from posttrain.errors import ConfigError
from posttrain.training.settings import TrainingSettings


def test_defaults_are_those_of_a_recipe() -> None:
    recipe = {f.name: f for f in dataclasses.fields(Recipe)}
    settings = TrainingSettings()
    for field in dataclasses.fields(settings):
        other = recipe[field.name]
        factory = other.default_factory
        default = other.default if factory is dataclasses.MISSING else factory()
        value = getattr(settings, field.name)
        assert value == (tuple(default) if isinstance(default, list) else default), field.name


def test_settings_by_name() -> None:
    settings = TrainingSettings.of({"save_every": 5, "report_to": ("tensorboard",)})
    assert (settings.save_every, settings.report_to) == (5, ("tensorboard",))
    assert settings.max_grad_norm == 1.0


def test_an_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="'max_grad_nrom'.*'max_grad_norm'"):
        TrainingSettings.of({"max_grad_nrom": 1.0})


def test_settings_of_a_rule_that_is_not_chosen_are_refused() -> None:
    assert TrainingSettings(optimizer="muon", muon_momentum=0.9).muon_momentum == 0.9
    for name, value in (("muon_momentum", 0.9), ("muon_scale", "original")):
        with pytest.raises(ConfigError, match=f"^{name}: .*optimizer: muon"):
            TrainingSettings.of({name: value})
        with pytest.raises(ConfigError, match=f"^{name}: "):
            TrainingSettings.of({name: value, "optimizer": "adamw_8bit"})


@pytest.mark.parametrize("name", ["muon_momentum", "ema_decay"])
def test_decays_are_below_one(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: "):
        TrainingSettings.of({"optimizer": "muon", name: 1.0})
