"""SDFT in the place of fine-tuning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.registry import retentions
from posttrain.retentions.base import Stage, trained_parameters


def test_the_stage_distils_from_the_same_rows(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    stage = stage_of(model, 0, learning_rate=1e-3)
    plan = retentions.get("sdft")(max_tokens=5).begin(stage)
    assert plan.method == "sdft"
    assert plan.optimizer == stage.plan.optimizer
    for name in ("data", "task", "batch_size"):
        assert plan.settings[name] == stage.plan.settings[name]
    before = {n: p.detach().clone() for n, p in trained_parameters(model).items()}
    pt.fit(model, plan, steps=1)
    assert any((p != before[n]).any() for n, p in trained_parameters(model).items())


def test_what_samples_already_is_refused(model: LanguageModel) -> None:
    plan = pt.grpo(pt.task.sorting(num_examples=4))
    with pytest.raises(ConfigError):
        retentions.get("sdft")().begin(Stage(0, "a", plan, model, (), 0, {}))


@pytest.mark.parametrize(
    "settings", [{"teacher_rate": -0.1}, {"max_tokens": 0}, {"num_generations": 0}]
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        retentions.get("sdft")(**settings)
