"""Bounds of numbers."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.limits import check_values
from posttrain.recipe import (
    apply_overrides,
    parse_recipe,
)


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch_size", 0), ("seed", -1), ("adam_beta1", 1.0), ("learning_rate", 11.0)],
)
def test_numbers_out_of_bounds_are_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{key}: {value:g}"):
        check_values({key: value})


@pytest.mark.parametrize(
    ("key", "bound", "beyond"),
    [
        ("batch_size", 1, 0),
        ("seed", 0, -1),
        ("adam_beta1", 0.0, -1e-9),
        ("learning_rate", 10.0, 10.0 + 1e-9),
    ],
)
def test_a_bound_itself_passes(key: str, bound: float, beyond: float) -> None:
    check_values({key: bound})
    with pytest.raises(ConfigError):
        check_values({key: beyond})


GRPO: dict[str, Any] = {"method": "grpo", "model": "m", "task": {"name": "arithmetic"}}


@pytest.mark.parametrize(
    "override",
    [
        "learning_rate=.nan",
        "learning_rate=1e400",
        "weight_decay=.inf",
        "sampling.temperature=.nan",
        "max_steps=.inf",
        "credit.importance_clip_max=.inf",
        "losses=[{name: clipped, clip_low: .nan}]",
        "advantage.epsilon=.nan",
        "rewards=[{name: task, weight: .inf}]",
        "task.num_steps=.inf",
        "seed=.nan",
        "credit.kl_target=.nan",
        "evaluation={task: {name: arithmetic, max_value: .inf}}",
        "evaluation={task: arithmetic, sampling: {top_p: .nan}}",
    ],
)
def test_numbers_that_are_not_finite_are_refused(override: str) -> None:
    raw = {**GRPO, "advantage": {"name": "group_mean"}}
    with pytest.raises(ConfigError, match="finite"):
        parse_recipe(apply_overrides(raw, [override]))


@pytest.mark.parametrize("rate", [1e38, 1e3, 10.1])
def test_learning_rates_that_replace_every_weight_are_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="^learning_rate: "):
        parse_recipe({**GRPO, "learning_rate": rate})
    ppo = {**GRPO, "method": "ppo", "critic_learning_rate": rate}
    with pytest.raises(ConfigError, match="^critic_learning_rate: "):
        parse_recipe(ppo)
    assert parse_recipe({**GRPO, "learning_rate": 10}).learning_rate == 10.0
