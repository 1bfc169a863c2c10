"""The main loss of a method, which is the first of its losses, and its settings as plain keys.

`beta: 0.2` in a recipe of method dpo is `losses: [{name: dpo, beta: 0.2}]`, and TRL's
`epsilon: 0.2` of method grpo is `losses: [{name: clipped, clip_low: 0.2}]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posttrain import keys, registry
from posttrain.errors import ConfigError
from posttrain.registry import Entry

OTHER_NAMES = {"epsilon": "clip_low", "epsilon_high": "clip_high"}
"""Names in other trainers of settings of losses."""


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
    own = losses[name].settings
    first, *others = _items(raw, entry)
    changed = dict(first) if isinstance(first, Mapping) else {"name": first}
    plain = dict(raw)
    for key in rest:
        setting = key if key in own else OTHER_NAMES.get(key, key)
        if setting not in own:
            continue
        if setting in changed:
            raise ConfigError(
                f"{key!r} and {setting!r} of the loss {name!r} are the same setting; keep one"
            )
        changed[setting] = plain.pop(key)
    return {**plain, "losses": [changed, *others]} if len(plain) < len(raw) else plain


def _items(raw: Mapping[str, Any], entry: Entry) -> list[Any]:
    if "losses" not in entry.settings:
        return []
    items = raw.get("losses", entry.settings["losses"].default)
    return list(items) if isinstance(items, list | tuple) else []
