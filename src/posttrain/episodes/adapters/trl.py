"""TRL's `environment_factory` with its `reward_funcs`.

The classes themselves are environments as they are: `reset`, public methods as tools, an optional
`get_reward`. Most have no `get_reward`, and are scored by functions that read `environments`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from posttrain.errors import ConfigError


def scored_by(
    factory: Callable[[], Any],
    reward_funcs: Callable[..., Any] | Sequence[Callable[..., Any]],
    weights: Sequence[float] | None = None,
) -> Callable[[], Any]:
    """A factory of environments whose reward is the weighted sum of reward functions.

        environment = scored_by(Game, lambda environments, **_: [e.score for e in environments])

    Each function is called with `environments=[environment]` at the end of an episode, and may be
    a coroutine function. None for an environment means that the function does not apply. An
    environment's own `get_reward` is added with weight 1, as in TRL.

    Args:
        weights: one per function; None = 1.

    Raises:
        ConfigError: not one weight per function.
    """
    functions = [reward_funcs] if callable(reward_funcs) else list(reward_funcs)
    factors = [1.0] * len(functions) if weights is None else list(weights)
    if len(factors) != len(functions):
        raise ConfigError(f"weights: {len(factors)} for {len(functions)} functions; give one each")

    def make() -> Any:
        environment = factory()
        own = getattr(environment, "get_reward", None)

        def get_reward() -> Any:
            """In the environment's thread; what a coroutine function gives is awaited."""
            parts = [] if own is None else [(1.0, own())]
            for weight, function in zip(factors, functions, strict=True):
                parts.append((weight, function(environments=[environment])))
            if any(inspect.isawaitable(value) for _, value in parts):
                return _awaited(parts)
            return _sum(parts)

        environment.get_reward = get_reward
        return environment

    return make


async def _awaited(parts: Sequence[tuple[float, Any]]) -> float | None:
    return _sum([(w, await value if inspect.isawaitable(value) else value) for w, value in parts])


def _sum(parts: Sequence[tuple[float, Any]]) -> float | None:
    """The weighted sum; a function gives a list with one value, `get_reward` the value alone."""
    values = [(w, value[0] if isinstance(value, list) else value) for w, value in parts]
    terms = [weight * float(value) for weight, value in values if value is not None]
    return sum(terms) if terms else None
