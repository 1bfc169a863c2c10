"""What the settings of a policy-gradient method ask for."""

from __future__ import annotations

import pytest
from policy_runs import settings

from posttrain.config import Component


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
