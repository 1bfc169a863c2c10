"""From what a user gives to what methods take: rows, tasks, losses, rewards, models.

A method is called with objects or with names: rows in memory or a path, a task or its name, a
function or the name of a registered one. A recipe gives names alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from posttrain import registry
from posttrain.config import Component, ComponentLike, DataConfig, Limits, ModelConfig
from posttrain.errors import ConfigError, DataError, PosttrainError
from posttrain.models.forest_model import ForestModel
from posttrain.models.spec import ModelSpec, model_spec
from posttrain.rewards.base import RewardSet
from posttrain.tasks.answers import refuse_missing_answers
from posttrain.tasks.rows import make_task
from posttrain.types import Example, Task

Rows = DataConfig | str | Path | Iterable[Mapping[str, Any]]
"""Rows: dicts in memory, a `datasets.Dataset`, a file, a folder or a hub id."""

Domains = Rows | Mapping[str, Rows]
"""A folder with a domain of rows in each file and folder, or rows by the name of their domain."""

TaskLike = (
    Task
    | Component
    | str
    | Mapping[str, Any]
    | Callable[[], Task]
    | Sequence[Mapping[str, Any] | Example]
)
"""A task, rows or examples, a function that makes a task, or the name of a registered one."""

Losses = ComponentLike | Sequence[ComponentLike]
Rewards = ComponentLike | Sequence[ComponentLike]
"""One or several names, functions, or {name: ..., weight: ..., setting: value}."""

Selectors = Any
"""One or several selectors of active learning: names, functions, {name: ..., setting: value}, or
query strategies of scikit-activeml.
"""

ModelLike = ModelSpec | ForestModel | ModelConfig | str | Path
"""A loaded model, a folder, a hub id, "embedded", or a configuration."""


def data_of(data: Rows) -> DataConfig:
    """Rows with the settings of how they are read.

    Raises:
        ConfigError: `data` is neither rows nor a place.
    """
    return DataConfig.of(data)


def components_of(items: Losses) -> list[Component]:
    """Losses or rewards as components."""
    if isinstance(items, str | Mapping | Component) or callable(items):
        items = [items]
    return [Component.of(item) for item in items]


def model_of(model: ModelLike | None, seed: int = 0) -> ModelSpec | None:
    """Another model beside the one that is trained."""
    return None if model is None else model_spec(model, seed=seed)


def task_of(task: TaskLike) -> Task:
    """The task itself, made where it is named.

    Raises:
        ConfigError: there is no such task, or the user's function failed.
        DataError: it has no examples.
    """
    if isinstance(task, Task):
        name, instance = task.name, task
    elif isinstance(task, Sequence) and not isinstance(task, str):
        name, instance = "rows", make_task(cast(Any, task))
    else:
        item = Component.of(task)
        name, instance = item.name, _call(item)
    if not isinstance(instance, Task):
        raise ConfigError(
            f"task {name!r} returned {type(instance).__name__}; "
            "it must return a posttrain.types.Task"
        )
    if not instance.examples:
        raise DataError(
            f"task {name!r} has no examples; look at its settings with `posttrain explain tasks "
            f"{name}`"
        )
    return instance


def _call(item: Component) -> Any:
    """What the task's function returns. Errors of a user's function name the task."""
    make = registry.tasks.bind_of(item)
    try:
        return make()
    except (PosttrainError, OSError, KeyboardInterrupt):
        raise
    except BaseException as error:  # also SystemExit, which would end the run with status 0
        raise ConfigError(
            f"task {item.name!r} raised {type(error).__name__}: {error}. Mend the function, or its "
            "settings; --traceback shows where"
        ) from error


def settings_of_task(task: TaskLike) -> dict[str, Any]:
    """The settings by which a task was named; none of a task that is an object."""
    if isinstance(task, str | Mapping | Component):
        return dict(Component.of(task).settings)
    return {}


def rewards_of(rewards: Rewards, task: Task, limits: Limits) -> RewardSet:
    """The rewards of a run, within its limits of time and failures, tried on known answers."""
    components = components_of(rewards)
    refuse_missing_answers(task, components)
    reward_set = RewardSet(
        components,
        task=task,
        max_failed=limits.max_failed_rewards,
        timeout_seconds=limits.reward_timeout_seconds,
    )
    reward_set.self_test(task.examples)
    return reward_set


def rewards_text(rewards: Rewards) -> str:
    """The rewards with their weights, as a check shows them."""
    items = components_of(rewards)
    return (
        ", ".join(f"{c.name} x {c.weight:g}" for c in items)
        + " (self-test passed: known answers, finite values)"
    )
