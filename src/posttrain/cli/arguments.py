"""From the arguments of a command to a recipe."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from posttrain import registry
from posttrain.cli.runs import notice
from posttrain.config import Component, Recipe
from posttrain.errors import ConfigError
from posttrain.recipe import apply_overrides, load_recipe, parse_recipe
from posttrain.recipe_paths import model_of

MODEL = 'folder, hub id, folder of a run, or "embedded"'
"""What --model takes."""


def component_named(text: str, registered: registry.Registry) -> Component:
    """A registered function with settings from a text: "majority_vote:num_samples=16".

    Raises:
        ConfigError: no such function, or no setting behind the colon.
    """
    name, _, settings = text.partition(":")
    raw: dict[str, Any] = {}
    for change in filter(None, settings.split(",")):
        if "=" not in change:
            raise ConfigError(f"{text}: {change!r} is not of the form key=value")
        raw = apply_overrides(raw, [change])
    return Component(registered.entry(name).name, raw)


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe of a file, of a run's folder, or of a method's or eval's arguments."""
    name = options.recipe
    if name == "eval":
        return evaluation_recipe(options)
    if name in registry.methods.names() and not Path(name).is_file():
        return method_recipe(name, options)
    unused = [f for f in ("model", "data", "task", "output") if getattr(options, f, None)]
    if unused:
        flag = unused[0]
        raise ConfigError(
            f"--{flag} goes with a method; change a recipe with {flag}={getattr(options, flag)}"
        )
    folder = Path(name)
    path = folder / "recipe.yaml" if (folder / "recipe.yaml").is_file() else folder
    return load_recipe(path, options.overrides)


def own_recipe(name: str, options: argparse.Namespace) -> Recipe:
    """The recipe of a method's command: of a file or a run's folder, or of its flags.

    Raises:
        ConfigError: the recipe is of another method.
    """
    if not options.recipe:
        return method_recipe(name, options)
    recipe = recipe_of(options)
    if recipe.method != name:
        raise ConfigError(
            f"{options.recipe} is a recipe of method {recipe.method!r}; use posttrain run, or "
            f"posttrain {recipe.method}"
        )
    return recipe


def method_recipe(name: str, options: argparse.Namespace) -> Recipe:
    """The recipe that a method's flags and changes stand for."""
    settings = registry.methods.entry(name).settings
    raw: dict[str, Any] = {"method": name}
    for key in ("model", "output"):
        if getattr(options, key, None):
            raw[key] = getattr(options, key)
    if getattr(options, "data", None):
        raw |= (
            {"data": options.data}
            if "data" in settings
            else {"task": {"name": "jsonl", "path": options.data}}
        )
    if getattr(options, "task", None):
        raw["task"] = options.task
    raw = apply_overrides(raw, options.overrides)
    raw.setdefault("output", f"runs/{name}")
    if "model" not in raw and "endpoint" not in raw:
        raise ConfigError(f"{name} needs --model: {MODEL}")
    if not {"data", "task", "stages"} & raw.keys():
        both = {"data", "task"} <= settings.keys()
        need = "--data FILE"
        if "task" in settings:
            need = (
                "--data FILE or --task NAME" if both else "--task NAME, or --data FILE with prompts"
            )
        raise ConfigError(f"{name} needs {need}")
    return parse_recipe(raw)


def evaluation_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that the flags and changes of eval stand for."""
    raw: dict[str, Any] = {"method": "evaluate"}
    if options.model:
        raw["model"] = options.model
    if options.task:
        raw["evaluation"] = {"task": {"name": options.task}}
    if options.output:
        raw["output"] = options.output
    raw = apply_overrides(raw, [_evaluation_change(text) for text in options.overrides])
    if "model" not in raw and "endpoint" not in raw:
        raise ConfigError(f"eval needs --model: {MODEL}")
    if not raw.get("evaluation"):
        raise ConfigError(
            f"eval needs --task: one of {', '.join(registry.tasks.names())}; `posttrain ls tasks` "
            "explains them"
        )
    return parse_recipe(raw)


def search_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that the arguments of search stand for: an evaluation under a strategy.

    Raises:
        ConfigError: no strategy or no problems, or a wrong key.
    """
    name = search_name(options)
    raw: dict[str, Any] = {
        "method": "evaluate",
        "search": {"name": name, **({"path": options.policy} if options.policy else {})},
        "output": options.output or "runs/search",
    }
    if options.model.startswith(("http://", "https://")):
        raw["endpoint"] = {"url": options.model}
    else:
        raw["model"] = options.model
    evaluation: dict[str, Any] = {}
    if options.task:
        evaluation["task"] = {"name": options.task}
    if options.data:
        evaluation["task"] = {"name": "jsonl", "path": options.data}
    if options.budget is not None:
        evaluation["budget"] = options.budget
    raw["evaluation"] = evaluation
    own = registry.searches.entry(name).settings
    changes = [
        f"search.{text}"
        if text.partition("=")[0].strip().partition(".")[0] in own
        else _evaluation_change(text)
        for text in options.overrides
    ]
    raw = apply_overrides(raw, changes)
    if not raw["evaluation"].get("task"):
        raise ConfigError(
            "search needs problems: --task NAME, --data FILE with prompts and answers, or --prompt "
            "TEXT"
        )
    return parse_recipe(raw)


def search_name(options: argparse.Namespace) -> str:
    """The strategy of the arguments of search.

    Raises:
        ConfigError: neither a strategy nor a policy, or no such strategy. DataError: no such
        policy.
    """
    name = options.search
    if options.policy:
        from posttrain.search.policy import load_policy

        scored = load_policy(options.policy).difficulty == "score"
        name = name or ("scored_compute_optimal" if scored else "compute_optimal")
        if "path" not in registry.searches.entry(name).settings:
            raise ConfigError(
                f"--policy: search {name!r} takes none; leave out --search or --policy"
            )
    if name is None:
        raise ConfigError(
            f"search needs --search NAME: one of {', '.join(registry.searches.names())}; or "
            "--policy FILE, which chooses the strategy for each problem"
        )
    return str(registry.searches.entry(name).name)


_OF_EVALUATION = (
    "task",
    "num_examples",
    "num_samples",
    "sampling",
    "seed",
    "environment",
    "agent",
    "budget",
)


def _evaluation_change(text: str) -> str:
    """`task.KEY=VALUE` and the fields of evaluation need no `evaluation.` before them."""
    key = text.partition("=")[0].strip()
    first = key.partition(".")[0]
    if first in _OF_EVALUATION:
        return f"evaluation.{text}"
    return f"evaluation.sampling.{text}" if first in ("max_tokens", "stop") else text


def reward_named(text: str) -> Component:
    """A reward from a text: the folder of a reward model, "length" or "length:target=32".

    Raises:
        ConfigError: no such folder or reward, or no setting behind the colon.
    """
    folder = Path(text).expanduser()
    if folder.is_dir():
        return Component("reward_model", {"path": model_of(str(folder), notice)})
    name, _, settings = text.partition(":")
    raw: dict[str, Any] = {}
    # A comma within brackets separates the items of a list.
    for change in filter(None, re.split(r",(?![^\[]*\])", settings)):
        if "=" not in change:
            raise ConfigError(f"{text}: {change!r} is not of the form key=value")
        raw = apply_overrides(raw, [change])
    return Component(registry.rewards.entry(name).name, raw)
