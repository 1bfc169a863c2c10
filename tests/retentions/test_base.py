"""Stages and plans made again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import posttrain as pt
from posttrain.config import Component
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.retentions.base import (
    Retention,
    source_of,
    trained_parameters,
    with_settings,
    with_term,
)


def test_the_base_class_changes_nothing(model: LanguageModel, stage_of: Callable[..., Any]) -> None:
    stage = stage_of(model)
    before = {n: p.clone() for n, p in trained_parameters(model).items()}
    method = Retention()
    assert method.begin(stage) is stage.plan
    method.end(stage)
    assert method.state() == {}
    assert all((p == before[n]).all() for n, p in trained_parameters(model).items())


def test_a_plan_is_made_again_with_other_settings() -> None:
    plan = pt.sft([{"text": "a b"}], batch_size=3, learning_rate=1e-3)
    again = with_settings(plan, batch_size=5)
    assert again.settings["batch_size"] == 5
    assert again.optimizer == plan.optimizer
    with pytest.raises(ConfigError):
        with_settings(plan, num_generations=3)


def test_a_term_is_added_to_the_objective() -> None:
    plan = pt.sft([{"text": "a b"}])
    more = with_term(plan, Component("entropy_bonus", weight=0.5))
    assert [term.name for term in more.objective.terms] == ["nll", "entropy_bonus"]
    assert [term.name for term in plan.objective.terms] == ["nll"]


def test_a_source_outside_a_training(model: LanguageModel, stage_of: Callable[..., Any]) -> None:
    source = source_of(stage_of(model).plan, model, 0)
    (batch,) = source.batches(0)
    assert batch.num_trees == 3
