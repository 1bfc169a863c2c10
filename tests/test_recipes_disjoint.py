"""What a shipped recipe evaluates on, it does not train on: all seeds, stages and mixed tasks."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from posttrain import registry
from posttrain.config import Component, Recipe
from posttrain.recipe import load_recipe, parse_recipe, stage_recipes

ROOT = Path(__file__).parent.parent / "recipes"
RECIPES = sorted(ROOT.rglob("*.yaml"))
EVALUATING = ("evaluate", "evaluate_reward")
# Rewards that read no answer: a part with these alone may learn on what it is measured on, which is
# what test-time reinforcement learning is.
WITHOUT_ANSWERS = {"majority"}
# Rows of preference recipes are written by recipes/preference/make_rows.py, for all of them.
WRITTEN_ROWS = "runs/preference/rows/"

Items = frozenset[Any]
"""Prompts of a task that is generated; path, subset and split of one that is read."""


@functools.cache
def _items(task: str) -> Items:
    item = json.loads(task)
    name, settings = item["name"], item["settings"]
    entry = registry.tasks.entry(name)
    if "path" in entry.settings:
        every = {k: s.default for k, s in entry.settings.items()} | settings
        return frozenset([(name, every["path"], every.get("subset"), every.get("split"))])
    examples = registry.tasks.bind(name, settings)().examples
    # What an environment tells follows from the example's columns.
    return frozenset(str(e.prompt or e.columns) for e in examples)


def items(task: Component) -> Items:
    return _items(json.dumps({"name": task.name, "settings": task.settings}, sort_keys=True))


class _TaskRead(Exception):
    """Raised in place of loading a model, once the script has named its task."""


@functools.cache
def row_tasks() -> tuple[Component, ...]:
    """The tasks that the script of preference rows takes its problems from: it runs up to
    loading a model.
    """
    spec = importlib.util.spec_from_file_location("make_rows", ROOT / "preference" / "make_rows.py")
    assert spec is not None and spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    named: list[Component] = []

    def task(name: str) -> Callable[..., None]:
        return lambda **settings: named.append(Component(name, settings))

    def stop(*_: Any, **__: Any) -> None:
        raise _TaskRead

    script.tasks, script.load_model = SimpleNamespace(get=task), stop
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(sys, "argv", ["make_rows.py", folder]),
        pytest.raises(_TaskRead),
    ):
        script.main()
    assert named
    return tuple(named)


def parts(recipe: Recipe) -> Iterator[Recipe]:
    """The recipe and its stages."""
    yield recipe
    for _, stage in stage_recipes(recipe):
        yield from parts(stage)


def trained(recipe: Recipe) -> list[Component]:
    """Tasks whose items any part of the recipe may train on."""
    found: list[Component] = []
    for part in parts(recipe):
        rewarded = {reward.name for reward in part.rewards}
        if rewarded and rewarded <= WITHOUT_ANSWERS:
            continue
        if part.method not in EVALUATING:
            tasks = [part.task, part.settings.get("mix_task")]
            found += [task for task in tasks if isinstance(task, Component)]
        if part.data is not None and part.data.path.startswith(WRITTEN_ROWS):
            found += row_tasks()
    return found


def evaluated(recipe: Recipe) -> list[Component]:
    """Tasks that any part of the recipe measures on."""
    found = []
    for part in parts(recipe):
        if part.evaluation is not None:
            found.append(part.evaluation.task)
        if part.method in EVALUATING and part.task is not None:
            found.append(part.task)
    return found


def overlap(recipe: Recipe) -> list[Any]:
    seen = frozenset[Any]().union(*map(items, trained(recipe)))
    return sorted(map(str, seen & frozenset().union(*map(items, evaluated(recipe)))))


def test_there_are_recipes_of_every_kind() -> None:
    measured = [path for path in RECIPES if evaluated(load_recipe(path))]
    both = [path for path in measured if trained(load_recipe(path))]
    assert len(measured) > 20 and len(both) > 15
    assert ROOT / "quickstart.yaml" in both and ROOT / "preference" / "dpo.yaml" in both


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(ROOT)))
def test_evaluation_items_are_not_trained_on(path: Path) -> None:
    recipe = load_recipe(path)
    if evaluated(recipe):
        shared = overlap(recipe)
        assert not shared, (
            f"{len(shared)} items are trained on and evaluated on, such as {shared[0]!r}"
        )


def test_recipes_that_use_each_others_models_and_rows_keep_apart() -> None:
    """Some recipes go on from what another one made, so no recipe evaluates on what any trains
    on.
    """
    recipes = [load_recipe(path) for path in RECIPES if path.name != "base_model.yaml"]
    seen = {item for recipe in recipes for task in trained(recipe) for item in items(task)}
    measured = {item for recipe in recipes for task in evaluated(recipe) for item in items(task)}
    assert len(seen) > 1000 and len(measured) > 300
    assert not seen & measured


@pytest.mark.parametrize("place", ["task", "stage", "mix_task"])
def test_an_overlap_is_seen(place: str) -> None:
    test = {"name": "arithmetic", "split": "test", "num_examples": 20, "seed": 1}
    train = {"name": "arithmetic", "num_examples": 20}
    method: dict[str, Any] = {
        "method": "grpo",
        "model": "m",
        "task": train,
        "evaluation": {"task": test},
    }
    assert not overlap(parse_recipe(method))
    if place == "stage":
        stages = [{"name": "a", "method": "sft", "task": {**test, "num_examples": 3}}]
        method = {
            "method": "pipeline",
            "model": "m",
            "evaluation": {"task": test},
            "stages": stages,
        }
        assert len(overlap(parse_recipe(method))) == 3
    else:
        assert len(overlap(parse_recipe({**method, place: test}))) == 20
