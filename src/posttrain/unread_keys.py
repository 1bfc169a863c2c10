"""Refusing keys that nothing reads, with the nearest place that does read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain import keys, recipe_names, registry
from posttrain.errors import ConfigError, nearest
from posttrain.main_loss import main_loss
from posttrain.registry import Entry


def refuse_unread(raw: Mapping[str, Any], entry: Entry) -> None:
    """Refuse top-level keys that the method does not read.

    Raises:
        ConfigError: names the key and the nearest right place.
    """
    allowed = keys.keys_read(entry)
    for key in raw:
        if key not in allowed:
            raise ConfigError(_message(str(key), raw, entry, allowed))


def _message(key: str, raw: Mapping[str, Any], entry: Entry, allowed: set[str]) -> str:
    unknown = f"unknown key {key!r} for method {entry.name!r}"
    advice = recipe_names.advice(key, entry)
    if advice:
        return f"{unknown}: {advice}"
    places = [
        *_stage_places(key, raw),
        *_section_places(key, entry),
        *_function_places(key, raw, entry),
    ]
    if places:
        return f"{key}: method {entry.name!r} does not read it; set {' or '.join(places)}"
    losses = _losses_with(key) if "losses" in entry.settings else []
    if losses and key not in _all_keys():
        main = main_loss(raw, entry)
        more = f", and the main loss is {main!r}" if main else "; name one under losses"
        others = f" and {len(losses) - 6} others" if len(losses) > 6 else ""
        return f"{unknown}: it is a setting of the losses {', '.join(losses[:6])}{others}{more}"
    readers = [name for name, other in _methods().items() if key in keys.keys_read(other)]
    if readers:
        return (
            f"{key}: method {entry.name!r} does not read it; leave it out. Methods that read "
            f"it: {', '.join(readers)}"
        )
    return f"{unknown}: {nearest(key, allowed)}"


def _methods() -> dict[str, Entry]:
    return registry.methods.entries()


def _all_keys() -> set[str]:
    return {key for entry in _methods().values() for key in keys.keys_read(entry)}


def _losses_with(key: str) -> list[str]:
    """The losses that have a setting of this name."""
    return [name for name, loss in registry.losses.entries().items() if key in loss.settings]


def _stage_places(key: str, raw: Mapping[str, Any]) -> list[str]:
    """The stages of a pipeline that read the key."""
    stages = [s for s in raw.get("stages") or () if isinstance(s, Mapping)]
    methods = _methods()
    return [
        f"stages.{stage.get('name')}.{key}"
        for stage in stages
        if stage.get("method") in methods and key in keys.keys_read(methods[str(stage["method"])])
    ]


def _section_places(key: str, entry: Entry) -> list[str]:
    """The sections of the method that have a field of this name."""
    places = [
        name
        for name in ("model", *sorted(keys.keys_read(entry) - {"model"}))
        if keys.field_annotation(keys.annotation_of(name, entry), key)
        and keys.class_name(keys.annotation_of(name, entry)) != "Component"
    ]
    return [f"{name}.{key}" for name in places]


def _function_places(key: str, raw: Mapping[str, Any], entry: Entry) -> list[str]:
    """The functions that the method names (an advantage, a task, a search) with such a setting."""
    names = {
        "advantage": registry.advantages,
        "task": registry.tasks,
        "search": registry.searches,
        "environment": registry.environments,
    }
    places = []
    for name in names.keys() & entry.settings.keys():
        value = raw.get(name, entry.settings[name].default)
        function = value.get("name") if isinstance(value, Mapping) else value
        functions = names[name].entries()
        if function in functions and key in functions[function].settings:
            places.append(f"{name}.{key}")
    return places
