"""What names a loss, reward, advantage, task or search: a name or a function, with settings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from posttrain.errors import ConfigError


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function in messages and metrics; "lambda" for a lambda."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return str(name).strip("<>")


@dataclass(frozen=True, slots=True)
class Component:
    """A loss, reward, advantage, task or search with its settings.

    A recipe writes `name` alone, or `{name: ..., weight: ..., setting: value}`.

    Attributes:
        name: of a registered function, or of `function` in messages and metrics.
        settings: values of the function's keyword-only parameters.
        weight: factor in a sum of losses or rewards.
        aggregation: how a loss is averaged over tokens; None takes the method's default.
        on: the targets that a loss is averaged on: "all", "sampled" (those that the model sampled),
            "given" or another stream that marks rows; None is "given" for a loss that reads
            `given`, and "sampled" for any other.
        function: a function that is given itself and not looked up by its name.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    aggregation: str | None = None
    function: Callable[..., Any] | None = None
    on: str | None = None

    @classmethod
    def of(cls, value: ComponentLike) -> Component:
        """A component from a name, a function, or a mapping as a recipe writes it.

        Raises:
            ConfigError: the value is none of these.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls(value)
        if callable(value):
            return cls(name_of(value), function=value)
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            settings = {str(k): v for k, v in value.items()}
            name, weight = settings.pop("name"), settings.pop("weight", 1.0)
            aggregation, on = settings.pop("aggregation", None), settings.pop("on", None)
            return cls(name, settings, weight, aggregation, on=on)
        raise ConfigError(f"{value!r} names no function; give a name, a function, or {{name: ...}}")


ComponentLike = Component | str | Mapping[str, Any] | Callable[..., Any]
"""What names a loss, reward, advantage, task or search in Python."""
