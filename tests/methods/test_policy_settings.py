"""What the settings of a policy-gradient method ask for."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.config import Component, CreditConfig, Limits, SamplingConfig
from posttrain.methods.policy_settings import PolicyGradient


def settings(**changes: Any) -> PolicyGradient:
    values: dict[str, Any] = {
        "rewards": [Component("task")],
        "losses": [Component("clipped")],
        "advantage": Component("group_mean"),
        "credit": CreditConfig(),
        "sampling": SamplingConfig(),
        "num_generations": 4,
        "batch_size": 2,
        "num_iterations": 1,
        "num_minibatches": 1,
        "mask_truncated": False,
        "max_resamples": 0,
        "num_train_epochs": 1.0,
        "limits": Limits(),
    }
    return PolicyGradient(**{**values, **changes})


def test_inputs_are_those_of_all_losses_and_of_the_estimator() -> None:
    asked = settings(losses=[Component("reinforce"), Component("value")])
    assert {"logprobs", "advantages", "values", "returns"} <= asked.loss_inputs
    assert "old_logprobs" in settings().loss_inputs
    assert "rewards" in settings().advantage_inputs
    assert "values" in settings(advantage=Component("gae")).advantage_inputs


@pytest.mark.parametrize(("loss", "expected"), [("mrt", True), ("clipped", False)])
def test_losses_that_compare_a_prompts_completions(loss: str, expected: bool) -> None:
    losses = [Component("clipped"), Component(loss)]
    assert settings(losses=losses).compares_groups is expected


def test_rows_or_a_task_are_mixed() -> None:
    assert not settings().mixes
    assert settings(mix_data="rows.jsonl").mixes and settings(mix_task="arithmetic").mixes
    assert not settings(given_steps=3).mixes


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        settings().batch_size = 3  # type: ignore[misc]
