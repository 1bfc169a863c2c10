"""The cost of a recipe's step on other devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from posttrain.config import Recipe
from posttrain.errors import ConfigError
from posttrain.runs.calls import Call
from posttrain.training.cost import Cost
from posttrain.training.devices import Device
from posttrain.training.plan import Plan
from posttrain.training.prediction import predict_cost


def recipe_costs(
    recipe: Recipe,
    devices: Sequence[int],
    *,
    device_kind: str | Device,
    sharded: bool | None = None,
    prompt_tokens: int = 256,
    completion_tokens: int | None = None,
    shape: str | None = None,
) -> dict[int, Cost]:
    """The cost of a step of a recipe by number of devices. Arguments are those of `predict_cost`.

    Raises:
        ConfigError: the recipe trains no plan (a pipeline, a loop, a job).
    """
    call = Call(recipe, notice=lambda text: None)
    plan = call.make()
    if not isinstance(plan, Plan):
        raise ConfigError(
            f"method {recipe.method!r} has no one step whose cost could be predicted; give the "
            "recipe of one training"
        )
    training = call.training
    settings: dict[str, Any] = {
        field.name: getattr(training, field.name)
        for field in dataclasses.fields(training)
        if field.name not in plan.settings
    }
    return {
        count: predict_cost(
            call.trained_model,
            plan,
            devices=count,
            device_kind=device_kind,
            sharded=sharded,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            shape=shape,
            seed=recipe.seed,
            **settings,
        )
        for count in devices
    }
