"""The cost of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.recipe import parse_recipe
from posttrain.runs.prediction import recipe_costs


def test_a_recipe_costs_what_its_call_does(tiny_folder: Path) -> None:
    rows = {"task": {"name": "arithmetic", "num_examples": 16, "num_steps": 1}, "batch_size": 4}
    recipe = parse_recipe({"method": "sft", "model": str(tiny_folder), "ema_decay": 0.5, **rows})
    costs = recipe_costs(recipe, [1, 4], device_kind="h100")
    task = pt.task.arithmetic(num_examples=16, num_steps=1)
    plan = pt.sft(task=task, batch_size=4)
    for count, cost in costs.items():
        same = pt.predict_cost(tiny_folder, plan, devices=count, ema_decay=0.5)
        assert cost.memory == same.memory and cost.seconds == same.seconds


def test_jobs_and_pipelines_have_no_step(tiny_folder: Path) -> None:
    recipe = parse_recipe(
        {"method": "evaluate", "model": str(tiny_folder), "evaluation": {"task": "arithmetic"}}
    )
    with pytest.raises(ConfigError, match="'evaluate'"):
        recipe_costs(recipe, [1], device_kind="h100")
