"""`key=value` changes of a recipe, before it is parsed. Dotted keys reach inside.

model.lora.r=8         a key of a section, also where the recipe writes `model: PATH` alone
losses.beta=0.2        a setting of the method's main loss, which is the first of its list
losses.kl.weight=0.1   an item of a list, by its name or its number
advantage.scale=none   a setting of a function that the method names by default
lora_r=8               a name of another trainer (see `recipe_names`)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from posttrain import keys, recipe_names, registry
from posttrain.errors import ConfigError, nearest, shown
from posttrain.registry import Entry
from posttrain.yaml_reader import read_yaml


def apply_overrides(raw: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `raw` with `key=value` texts applied in their order; values are YAML.

    Raises:
        ConfigError: a text without `=`, or a key that reaches into something without keys.
    """
    raw = rename(raw, method_entry(raw))
    for text in overrides:
        key, equals, written = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(f"override {shown(text)} is not of the form key=value")
        value = read_yaml(written, f"override {shown(text)}") if written else None
        entry = method_entry(raw)
        raw = put(raw, recipe_names.place_of(key, entry), value, key, entry)
    return dict(raw)


def rename(raw: Mapping[str, Any], entry: Entry | None) -> dict[str, Any]:
    """A copy of `raw` with names of other trainers moved to their places here."""
    pairs = recipe_names.resolve(raw, entry)
    names = {name for name, _, _ in pairs}
    renamed = {key: value for key, value in raw.items() if key not in names}
    for name, place, value in pairs:
        renamed = put(renamed, place, value, name, entry)
    return renamed


def method_entry(raw: Mapping[str, Any]) -> Entry | None:
    """The method that a recipe names, or None if it is not known (yet)."""
    name = raw.get("method")
    return registry.methods.entries().get(name) if isinstance(name, str) else None


def put(
    raw: Mapping[str, Any], place: str, value: Any, key: str, entry: Entry | None
) -> dict[str, Any]:
    """A copy of a recipe with the value at a dotted place replaced.

    Args:
        key: what the user wrote, for messages.
    Raises:
        ConfigError: the place is inside a value that has no keys.
    """
    head, *rest = place.split(".")
    annotation = keys.annotation_of(head, entry)
    node = raw.get(head)
    if rest and node is None:
        node = _default(head, annotation, entry)
    return {**raw, head: _put(node, rest, value, annotation, key)}


def _put(node: Any, path: list[str], value: Any, annotation: str, key: str) -> Any:
    """`node` with the value at a path inside it replaced. annotation: the type of the node."""
    if not path:
        return value
    head, *rest = path
    if isinstance(node, list | tuple):
        return _put_in_list(list(node), path, value, annotation, key)
    if isinstance(node, str):
        node = _expanded(node, annotation)
    if node is None:
        node = {}
    if not isinstance(node, Mapping):
        raise ConfigError(f"override {key}: {shown(node)} has no keys")
    inner = keys.field_annotation(annotation, head)
    return {**node, head: _put(node.get(head), rest, value, inner, key)}


def _put_in_list(items: list[Any], path: list[str], value: Any, annotation: str, key: str) -> Any:
    """A list with one item changed: by its number, its name, or a setting of the first item."""
    head, *rest = path
    names = [item.get("name") if isinstance(item, Mapping) else item for item in items]
    if head.isdigit() and int(head) < len(items):
        index = int(head)
    elif head in names:
        index = names.index(head)
    elif annotation == "list[Component]" and _is_setting(head, key, names):
        index, rest = 0, path
    else:
        choices = [str(name) for name in names] + _settings_of(key, names)
        raise ConfigError(f"override {key}: no item {head!r}: {nearest(head, choices)}")
    item = items[index]
    if "Component" not in annotation and isinstance(item, Mapping) and rest:  # a pipeline's stage
        entry = method_entry(item)
        place = recipe_names.place_of(".".join(rest), entry)
        items[index] = put(rename(item, entry), place, value, key, entry)
    else:
        items[index] = _put(item, rest, value, "Component", key)
    return items


def _is_setting(head: str, key: str, names: list[Any]) -> bool:
    """Whether `head` can be a setting of the first item of a list of functions."""
    if not names:
        return False
    entries = _component_registry(key).entries()
    if names[0] not in entries:  # of a plugin, which is not loaded yet
        return head.isidentifier()
    return head in ("weight", "aggregation") or head in entries[names[0]].settings


def _settings_of(key: str, names: list[Any]) -> list[str]:
    entries = _component_registry(key).entries()
    return list(entries[names[0]].settings) if names and names[0] in entries else []


def _component_registry(key: str) -> registry.Registry:
    return registry.rewards if key.startswith("rewards") else registry.losses


def _expanded(text: str, annotation: str) -> Any:
    """The keys that the short form of a section stands for, such as {path: text}."""
    name = keys.class_name(annotation)
    if name == "Component":
        return {"name": text}
    short = getattr(keys.CLASSES.get(name), "from_short", None)
    return text if short is None else short(text)


def _default(head: str, annotation: str, entry: Entry | None) -> Any:
    """The function, or functions, that a method names by default."""
    if entry is None or head not in entry.settings:
        return None
    default = entry.settings[head].default
    if "Component" not in annotation or default is registry.REQUIRED:
        return None
    return list(default) if isinstance(default, tuple) else default
