"""Components from what users write."""

from __future__ import annotations

import functools

import pytest

from posttrain.component import Component, name_of
from posttrain.errors import ConfigError


def length(completions: list[str], *, target: int = 1) -> list[float]:
    """A reward."""
    return [float(len(c) == target) for c in completions]


def test_a_component_of_each_form() -> None:
    assert Component.of("length") == Component("length")
    assert Component.of(length) == Component("length", function=length)
    mapping = {"name": "length", "weight": 0.5, "target": 3}
    assert Component.of(mapping) == Component("length", {"target": 3}, 0.5)
    component = Component("length", aggregation="token_mean")
    assert Component.of(component) is component


@pytest.mark.parametrize("value", [3, {"weight": 1.0}, {"name": 3}, None])
def test_what_names_no_function_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="name"):
        Component.of(value)  # type: ignore[arg-type]


def test_names_of_functions() -> None:
    assert name_of(functools.partial(functools.partial(length, target=2))) == "length"
    assert name_of(lambda completions: completions) == "lambda"
    shouting = type("Shouting", (), {"__call__": length})()
    assert name_of(shouting) == "Shouting"
