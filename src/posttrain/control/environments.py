"""Environments with continuous actions: Gymnasium's, and a linear system that needs no library."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import ConfigError, MissingDependency

Numbers = NDArray[np.float64]


class Environment(Protocol):
    """What an agent acts in, with Gymnasium's `reset` and `step`.

    num_states: D. low, high: bounds of the actions, [A] each. max_steps: of an episode.
    """

    num_states: int
    low: Numbers
    high: Numbers
    max_steps: int

    def reset(self, seed: int) -> Numbers:
        """The first state [D] of an episode, which follows from the seed."""
        ...

    def step(self, action: Numbers) -> tuple[Numbers, float, bool, bool]:
        """The next state [D], reward, whether it is terminal, whether the episode was cut off."""
        ...


class LinearSystem:
    """s' = 0.95 R s + B a + noise, reward -(|s|^2 + 0.1 |a|^2), of two states and one action.

    R turns by 0.3 rad, B = (0, 0.4), the noise has a standard deviation of 0.02. An episode has
    `max_steps` steps.
    """

    def __init__(self, max_steps: int = 50) -> None:
        self.num_states, self.max_steps = 2, max_steps
        self.low, self.high = np.array([-1.0]), np.array([1.0])
        turn = 0.3
        self._matrix = 0.95 * np.array(
            [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        )
        self._state, self._count = np.zeros(2), 0
        self._draw = np.random.default_rng(0)

    def reset(self, seed: int) -> Numbers:
        self._draw = np.random.default_rng(seed)
        self._state, self._count = self._draw.uniform(-1, 1, 2), 0
        return self._state.copy()

    def step(self, action: Numbers) -> tuple[Numbers, float, bool, bool]:
        a = float(np.clip(action[0], -1, 1))
        reward = -float((self._state**2).sum() + 0.1 * a**2)
        noise = 0.02 * self._draw.standard_normal(2)
        self._state = self._matrix @ self._state + np.array([0.0, 0.4]) * a + noise
        self._count += 1
        return self._state.copy(), reward, False, self._count >= self.max_steps


class GymnasiumEnvironment:
    """An environment of Gymnasium.

    Args:
        name: such as "Pendulum-v1".

    Raises:
        ConfigError: there is none of that name, or its states or actions are not vectors.
        MissingDependency: Gymnasium is not installed.
    """

    def __init__(self, name: str) -> None:
        try:
            import gymnasium
        except ImportError as error:
            raise MissingDependency("gymnasium", "control") from error
        try:
            self._inner: Any = gymnasium.make(name)
        except gymnasium.error.Error as error:
            raise ConfigError(f"environment {name!r}: {error}") from error
        states: Any = self._inner.observation_space
        actions: Any = self._inner.action_space
        vectors = all(
            isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1
            for space in (states, actions)
        )
        steps = getattr(self._inner.spec, "max_episode_steps", None)
        if not vectors or not np.isfinite([actions.low, actions.high]).all() or not steps:
            raise ConfigError(
                f"environment {name!r} has states {states}, actions {actions} and episodes of "
                f"{steps} steps; it needs vectors, bounded actions and a limit of steps, as "
                "Pendulum-v1 has"
            )
        self.num_states, self.max_steps = int(states.shape[0]), int(steps)
        self.low, self.high = actions.low.astype(float), actions.high.astype(float)

    def reset(self, seed: int) -> Numbers:
        return np.asarray(self._inner.reset(seed=seed)[0], dtype=np.float64)

    def step(self, action: Numbers) -> tuple[Numbers, float, bool, bool]:
        state, reward, terminal, cut, _ = self._inner.step(np.asarray(action, dtype=np.float32))
        return np.asarray(state, dtype=np.float64), float(reward), bool(terminal), bool(cut)


def make_environment(name: str) -> Environment:
    """An environment by its name: "linear", or one of Gymnasium's."""
    return LinearSystem() if name == "linear" else GymnasiumEnvironment(name)
