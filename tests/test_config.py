"""Settings that stand in several places have one default."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from posttrain.config import (
    Component,
    CreditConfig,
    EvaluationConfig,
    Limits,
    Recipe,
    SamplingConfig,
    TrustRegionConfig,
)
from posttrain.training.settings import TrainingSettings
from posttrain.types import Sampling


def defaults(section: type) -> dict[str, Any]:
    """The default of each field that has one."""
    found = {}
    for field in dataclasses.fields(section):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return found


@pytest.mark.parametrize("section", [Limits, TrainingSettings])
def test_a_recipe_has_the_defaults_of_python(section: type) -> None:
    recipe = defaults(Recipe)
    for name, value in defaults(section).items():
        ours = tuple(recipe[name]) if isinstance(recipe[name], list) else recipe[name]
        assert ours == value, name


def test_sampling_is_off_in_the_same_places() -> None:
    """max_tokens and stop are the task's in a recipe, and must be given to an engine."""
    recipe, engine = defaults(SamplingConfig), defaults(Sampling)
    assert recipe.keys() <= engine.keys()
    for name in recipe.keys() - {"max_tokens", "stop"}:
        assert recipe[name] == engine[name], name
    assert recipe["max_tokens"] is None and recipe["stop"] == []


@pytest.mark.parametrize(
    "section", [SamplingConfig(), CreditConfig(), Limits(), TrustRegionConfig()], ids=repr
)
def test_sections_are_frozen_and_equal_by_value(section: Any) -> None:
    """They are safe as defaults of a method's parameters."""
    assert section == type(section)()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(section, dataclasses.fields(section)[0].name, 1)


def test_lists_of_recipes_are_not_shared() -> None:
    one, two = Recipe("sft"), Recipe("sft")
    one.losses.append(Component("nll"))
    one.settings["a"] = 1
    assert two.losses == [] and two.settings == {}


def test_an_evaluation_has_a_seed_of_its_own() -> None:
    assert EvaluationConfig(Component("t")).seed != Recipe("evaluate").seed


def test_settings_need_no_torch() -> None:
    code = "import sys, posttrain.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
