"""Recipes: one strict, typed YAML file says what is run. Nothing here imports torch.

A recipe's keys are the fields of `Recipe` and the keyword-only settings of the method it names.
Unknown keys, wrong types and impossible combinations are errors that name the key, the value and
the way out, before anything is loaded.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from posttrain import keys, main_loss, registry, unread_keys
from posttrain.annotations import spelled
from posttrain.config import (
    Aggregation,
    Component,
    EvaluationConfig,
    ForgettingConfig,
    Recipe,
)
from posttrain.errors import ConfigError, nearest, nearest_files
from posttrain.limits import check_numbers
from posttrain.overrides import apply_overrides as apply_overrides
from posttrain.overrides import rename
from posttrain.typecheck import check
from posttrain.yaml_reader import read_yaml_file

_OF_TRAINING = ("lora", "adapter", "gradient_checkpointing", "activation_offload", "compile")
"""Settings of a model that belong to its training."""


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file and apply `key=value` overrides (dotted keys reach inside; values are
    YAML).

    Raises:
        ConfigError: no such file, broken YAML, or anything `parse_recipe` refuses.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise ConfigError(f"no recipe {str(path)!r}: {nearest_files(path.name, near)}")
    raw = read_yaml_file(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no keys; a recipe starts with `method: ...`")
    return parse_recipe(apply_overrides(raw, overrides), path.parent)


def parse_recipe(raw: Mapping[str, Any], base: Path = Path()) -> Recipe:
    """A checked recipe from plain values.

    Args:
        raw: keys and values as in the file. base: folder that relative plugin and data paths start
        from.
    Raises:
        ConfigError: unknown key, wrong type, unknown name, or a combination that cannot work.
    """
    if "method" not in raw:
        raise ConfigError(
            f"missing key 'method'; choose one of {', '.join(registry.methods.names())}"
        )
    registry.load_plugins(check(raw.get("plugins", []), list[str], "plugins"), base)
    entry = registry.methods.entry(check(raw["method"], str, "method"))
    hints = typing.get_type_hints(Recipe)
    fields = {name: hint for name, hint in hints.items() if name not in ("settings", "base")}
    raw = rename(raw, entry)
    raw = keys.without_old_defaults(raw, entry)
    raw = main_loss.with_plain_settings(raw, entry)
    unread_keys.refuse_unread(raw, entry)
    values: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for key in [*fields, *(k for k in entry.settings if k not in fields and k != "limits")]:
        is_set = key in raw
        if not is_set and key not in entry.settings:
            continue
        setting = entry.settings.get(key)
        value = raw[key] if is_set else (setting.default if setting else None)
        if key in fields:
            hint, target = fields[key], values
        else:
            assert setting is not None
            hint, target = keys.in_yaml(setting), settings
        if value is registry.REQUIRED:
            raise ConfigError(f"method {entry.name!r} needs the key {key!r} ({spelled(hint)})")
        target[key] = _value(value, hint, key)
    recipe = Recipe(**values, settings=settings, base=base)
    _check_components(recipe)
    check_numbers(recipe)
    keys.refuse_unread_values(recipe, entry)
    stage_recipes(recipe)
    return recipe


def stage_recipes(recipe: Recipe) -> list[tuple[str, Recipe]]:
    """The recipes of a pipeline's stages, by name, each checked.

    A stage inherits what it reads of seed, plugins, evaluation and report_to, and starts from the
    model of the stage before it that trained one (the pipeline's own model for the first); it
    writes to a folder of its name below the pipeline's. Anywhere in a stage "stage:NAME/FILE" is a
    file of the folder of an earlier stage, such as stage:draw/samples.jsonl.
    """
    stages: list[tuple[str, Recipe]] = []
    model: Any = _plain(recipe.model)
    used: set[str] = set()
    for number, raw in enumerate(recipe.stages):
        name = raw.get("name")
        if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(
                f"stages[{number}]: {name!r} is not a name; a stage needs name: letters, digits, "
                "- and _"
            )
        if name in dict(stages):
            raise ConfigError(
                f"stages[{number}]: the name {name!r} is taken; each stage writes to a folder of "
                "its name"
            )
        folder = str(Path(recipe.output or "runs/pipeline") / name)
        own = {
            k: _placed(v, Path(folder).parent, [n for n, _ in stages], name)
            for k, v in raw.items()
            if k != "name"
        }
        if own.get("method") == recipe.method:
            raise ConfigError(f"stages[{number}]: a {recipe.method} cannot hold another")
        inherited = _inherited(recipe, own, model)
        used.update(inherited)
        try:
            stage = parse_recipe(
                {**inherited, **own, "output": folder, "title": raw.get("title", name)}, recipe.base
            )
        except ConfigError as error:
            raise ConfigError(f"stage {name!r}: {error}") from error
        stages.append((name, stage))
        if keys.trains(registry.methods.entry(stage.method)):
            model = {**(_plain(stage.model) or {}), "path": f"{folder}/model"}
            # What the stage trained is saved as it is; the next stage asks for adapters of its own
            # if it wants them.
            model = {
                k: v for k, v in model.items() if k in ("path", "dtype", "device", "attention")
            }
    for key in keys.INHERITED if stages else ():
        if getattr(recipe, key) and key not in used:
            raise ConfigError(
                f"{key}: none of the stages takes it from the {recipe.method}; leave it out"
            )
    return stages


def _inherited(recipe: Recipe, own: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """What a stage takes from its pipeline. own: the keys that the stage itself gives."""
    values: dict[str, Any] = {
        "plugins": recipe.plugins,
        "seed": recipe.seed,
        "report_to": recipe.report_to,
    }
    values |= {"evaluation": _plain(recipe.evaluation), "model": model}
    registry.load_plugins(check(own.get("plugins", []), list[str], "plugins"), recipe.base)
    if not isinstance(own.get("method"), str) or own["method"] not in registry.methods.names():
        return {}  # parsing the stage says what is wrong
    entry = registry.methods.entry(own["method"])
    if (
        not keys.trains(entry)
        and isinstance(model, Mapping)
        and model.get("quantization", "none") == "none"
    ):
        # Nothing is trained in this stage, so the adapters and the memory of training are not its
        # own.
        values["model"] = {k: v for k, v in model.items() if k not in _OF_TRAINING}
    if own.get("search") is not None and values["evaluation"]:
        values["evaluation"] = {
            **values["evaluation"],
            "num_samples": 1,
        }  # the search has its own number of samples
    method_keys = keys.keys_read(entry)
    return {
        k: v
        for k, v in values.items()
        if v not in (None, [], {}) and k in method_keys and k not in own
    }


def _placed(value: Any, folder: Path, earlier: list[str], stage: str) -> Any:
    """`value` with every text "stage:NAME/FILE" in it replaced by the file's path."""
    if isinstance(value, Mapping):
        return {k: _placed(v, folder, earlier, stage) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_placed(v, folder, earlier, stage) for v in value]
    if not isinstance(value, str) or not value.startswith("stage:"):
        return value
    name, _, file = value.removeprefix("stage:").partition("/")
    if name not in earlier or not file:
        raise ConfigError(
            f"stage {stage!r}: {value!r} must be stage:NAME/FILE of an earlier stage: "
            f"{nearest(name, earlier)}"
        )
    return str(folder / name / file)


def _value(value: Any, hint: Any, where: str) -> Any:
    if hint == list[Component]:
        if not isinstance(value, list | tuple):
            raise ConfigError(
                f"{where}: {value!r} is not a list; write [{value}] or [{{name: ..., weight: ...}}]"
            )
        return [component(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if hint in (Component, Component | None):
        return None if value is None else component(value, where)
    of_evaluation = hint in (EvaluationConfig, EvaluationConfig | None)
    if of_evaluation and isinstance(value, Mapping):
        named = [key for key in ("task", "environment") if value.get(key) is not None]
        value = {**value, **{key: component(value[key], f"{where}.{key}") for key in named}}
    if hint == ForgettingConfig | None and isinstance(value, Mapping):
        value = _abilities(value, where)
    return check(value, hint, where)


def _abilities(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Old abilities with their tasks as components."""
    tasks = check(list(value.get("old") or []), list[Any], f"{where}.old")
    made: dict[str, Any] = {
        "old": [component(task, f"{where}.old[{i}]") for i, task in enumerate(tasks)]
    }
    if value.get("new") is not None:
        made["new"] = component(value["new"], f"{where}.new")
    return {**value, **made}


def component(value: Any, where: str) -> Component:
    """`name` or `{name, weight, **settings}` -> Component; of a loss, `aggregation` says how it
    is averaged, and `on` over which targets.
    """
    if isinstance(value, Component):
        return value
    if isinstance(value, str):
        return Component(value)
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ConfigError(
            f"{where}: {value!r} needs a name: write a name, or {{name: ..., setting: value}}"
        )
    of_losses = ("aggregation", "on") if where.startswith("losses") else ()
    own = ("name", "weight", *of_losses)
    rest = {str(k): v for k, v in value.items() if k not in own}
    weight = check(value.get("weight", 1.0), float, f"{where}.weight")
    aggregation = value.get("aggregation") if "aggregation" in own else None
    if aggregation is not None:
        check(aggregation, Aggregation, f"{where}.aggregation")
    on = value.get("on") if "on" in own else None
    if on is not None:
        check(on, str, f"{where}.on")
    return Component(value["name"], rest, weight, aggregation, on=on)


def _check_components(recipe: Recipe) -> None:
    """Every named function exists and takes the settings it is given."""
    for item in recipe.penalties:
        if not item.weight >= 0:
            raise ConfigError(f"penalties: the weight {item.weight} of {item.name!r} is below 0")
    if recipe.penalties and recipe.settings.get("trust_region") is not None:
        raise ConfigError(
            "penalties: trust_region bounds its step by the surrogate alone; leave out one of both"
        )
    for where, entries, items in (
        ("losses", registry.losses, recipe.losses),
        ("penalties", registry.penalties, recipe.penalties),
        ("rewards", registry.rewards, recipe.rewards),
        ("task", registry.tasks, [recipe.task] if recipe.task else []),
        ("evaluation.task", registry.tasks, _evaluated(recipe, "task")),
        ("evaluation.environment", registry.environments, _evaluated(recipe, "environment")),
        ("forgetting", registry.tasks, _old_abilities(recipe)),
        ("advantage", registry.advantages, _named(recipe, "advantage")),
        ("search", registry.searches, _named(recipe, "search")),
        ("environment", registry.environments, _named(recipe, "environment")),
    ):
        for item in items:
            entries.check(item.name, item.settings, where)
            if item.weight != 1.0 and where not in ("losses", "penalties", "rewards"):
                raise ConfigError(
                    f"{where}: weight belongs to losses and rewards; nothing weighs "
                    f"{item.name!r}, so leave it out"
                )


def _named(recipe: Recipe, setting: str) -> list[Component]:
    """The function that a method's own setting names, if it has such a setting."""
    value = recipe.settings.get(setting)
    return [value] if isinstance(value, Component) else []


def _evaluated(recipe: Recipe, key: str) -> list[Component]:
    """The function that the evaluation names, if it does."""
    value = getattr(recipe.evaluation, key, None)
    return [] if value is None else [value]


def _old_abilities(recipe: Recipe) -> list[Component]:
    """The tasks of the forgetting ledger, if there is one."""
    config = recipe.forgetting
    return [] if config is None else [*config.old, *([config.new] if config.new else [])]


def recipe_as_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values that `parse_recipe` reads back to the same recipe."""
    plain: dict[str, Any] = {}
    method_keys = keys.keys_read(registry.methods.entry(recipe.method))
    for f in dataclasses.fields(Recipe):
        value = getattr(recipe, f.name)
        if f.name not in method_keys or value in (None, [], ""):
            continue
        plain[f.name] = _plain(value)
    return {**plain, **{k: _plain(v) for k, v in recipe.settings.items() if v is not None}}


def _plain(value: Any) -> Any:
    if isinstance(value, Component):
        extra: dict[str, Any] = {"weight": value.weight} if value.weight != 1.0 else {}
        if value.aggregation is not None:
            extra["aggregation"] = value.aggregation
        if value.on is not None:
            extra["on"] = value.on
        return {"name": value.name, **extra, **value.settings}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: _plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if getattr(value, f.name) is not None and f.metadata.get("recipe", True)
        }
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value
