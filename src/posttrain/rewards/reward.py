"""What a reward is: something that can be called, checked without weights, and closed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from posttrain import registry
from posttrain.config import Component, ComponentLike
from posttrain.rewards.inputs import copied

Function = TypeVar("Function", bound=Callable[..., Any])


@runtime_checkable
class Reward(Protocol):
    """A reward with a state, such as a loaded model. A plain function is a reward too.

    Parameters of `__call__` are filled by name, as `RewardSet` describes.
    """

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """One value for each completion."""
        ...

    def check(self) -> None:
        """Refuse wrong settings, before any weights are loaded."""
        ...

    def close(self) -> None:
        """Release what it holds. It may be called again afterwards."""
        ...


class FunctionReward:
    """A plain function with its settings as a `Reward`: nothing to check and nothing to release."""

    def __init__(self, function: Callable[..., Any], settings: Mapping[str, Any]) -> None:
        self.function = function
        self.settings = dict(settings)

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        return self.function(*args, **inputs, **self.settings)

    def check(self) -> None:
        """Nothing to check."""

    def close(self) -> None:
        """Nothing to release."""


class LoadedModels:
    """Models that the rewards of one set share: each is loaded once, at its first use."""

    def __init__(self) -> None:
        self._models: dict[tuple[str, ...], Any] = {}

    def get(self, key: tuple[str, ...], load: Callable[[], Any]) -> Any:
        """The model of a key, such as (kind, folder, device)."""
        if key not in self._models:
            self._models[key] = load()
        return self._models[key]

    def close(self) -> None:
        """Release all models."""
        self._models.clear()


_MAKERS: dict[Callable[..., Any], Callable[..., Reward]] = {}


def made_by(make: Callable[..., Reward]) -> Callable[[Function], Function]:
    """Decorator of a reward function that has a `Reward` with a state.

    A set of rewards calls `make(models, **settings)` once instead of the function at every step.
    The function itself stays an ordinary function, which loads what it needs at each call.

    Args:
        make: from a `LoadedModels` and the function's settings to a `Reward`.
    """

    def declare(function: Function) -> Function:
        _MAKERS[function] = make
        return function

    return declare


def known_answers(*cases: tuple[str, Any, float]) -> Callable[[Function], Function]:
    """Decorator: (completion, answer, value) cases that must come out exactly.

    They are tried before a run begins, where the reward has no other settings than its defaults.
    """

    def declare(function: Function) -> Function:
        function.__dict__["known_answers"] = cases
        return function

    return declare


def bound_reward(component: Component, models: LoadedModels) -> tuple[Callable[..., Any], Reward]:
    """What the parameters of a reward are read from, and the reward with its settings fixed.

    Raises:
        ConfigError: no such reward, or a wrong setting.
    """
    function = component.function
    if isinstance(function, Reward) and not component.settings:
        return function, function
    settings = copied(component.settings)
    bound: Any = registry.rewards.bind_of(
        Component(component.name, settings, function=component.function)
    )
    make = _MAKERS.get(bound.func) if inspect.isfunction(bound.func) else None
    if make is not None:
        return bound.func, make(models, **bound.keywords)
    return bound.func, FunctionReward(bound.func, bound.keywords)


def reward_component(value: ComponentLike | tuple[str, float, dict[str, Any]]) -> Component:
    """A component from whatever names a reward; (name, weight, settings) among it."""
    if isinstance(value, tuple):
        name, weight, settings = value
        return Component(name, settings, weight)
    component = Component.of(value)
    function = component.function
    if isinstance(function, functools.partial):  # has no name of its own
        inner = getattr(function.func, "__name__", component.name)
        return Component(inner, component.settings, component.weight, function=function)
    return component


def unique_name(name: str, names: Mapping[str, Any]) -> str:
    """The name of a reward in metrics: lambda_1, lambda_2 for lambdas; length, length_1 for two
    rewards of one name.
    """
    if name in ("<lambda>", "lambda"):
        taken = [other for other in names if other.startswith("lambda_")]
        return f"lambda_{len(taken) + 1}"
    return name if name not in names else f"{name}_{len(names)}"
