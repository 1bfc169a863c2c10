"""The main loss of a method, which is the first of its losses, and its settings as plain keys.

`beta: 0.2` in a recipe of method dpo is `losses: [{name: dpo, beta: 0.2}]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain import keys, registry
from posttrain.errors import ConfigError
from posttrain.registry import Entry


def main_loss(raw: Mapping[str, Any], entry: Entry) -> str:
    """Name of the first loss of a recipe, or of the method's defaults; "" if there is none.

    Args:
        raw: keys and values of the recipe.
    """
    items = _items(raw, entry)
    item = items[0] if items else ""
    name = item.get("name") if isinstance(item, Mapping) else item
    return name if isinstance(name, str) else ""


def with_plain_settings(raw: Mapping[str, Any], entry: Entry) -> dict[str, Any]:
    """A copy of a recipe with settings of the main loss moved from its top level to the loss.

    A key that the method itself reads is not moved.

    Raises:
        ConfigError: the loss has a value for that setting already.
    """
    rest = raw.keys() - keys.keys_read(entry)
    name = main_loss(raw, entry) if rest else ""
    losses = registry.losses.entries() if name else {}
    if name not in losses:
        return dict(raw)
    moved = {key: raw[key] for key in raw if key in rest and key in losses[name].settings}
    if not moved:
        return dict(raw)
    first, *others = _items(raw, entry)
    settings = dict(first) if isinstance(first, Mapping) else {"name": first}
    for key in moved.keys() & settings.keys():
        raise ConfigError(f"{key!r} and {key!r} of the loss {name!r} are the same setting; keep one")
    plain = {key: value for key, value in raw.items() if key not in moved}
    return {**plain, "losses": [{**settings, **moved}, *others]}


def _items(raw: Mapping[str, Any], entry: Entry) -> list[Any]:
    if "losses" not in entry.settings:
        return []
    items = raw.get("losses", entry.settings["losses"].default)
    return list(items) if isinstance(items, list | tuple) else []
