"""Environments: their episodes follow from a seed."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest

from posttrain.control.environments import GymnasiumEnvironment, LinearSystem, make_environment
from posttrain.errors import ConfigError, MissingDependency


@pytest.mark.parametrize("name", ["linear", "Pendulum-v1"])
def test_an_episode_follows_from_its_seed(name: str) -> None:
    if name != "linear":
        pytest.importorskip("gymnasium")
    world = make_environment(name)
    runs = []
    for _ in range(2):
        states = [world.reset(seed=3)]
        cut = terminal = False
        while not (cut or terminal):
            state, reward, terminal, cut = world.step(world.high / 2)
            states.append(state)
            assert reward <= 0
        runs.append(np.array(states))
    assert runs[0].shape == (world.max_steps + 1, world.num_states)
    np.testing.assert_array_equal(*runs)


def test_the_linear_system_by_hand() -> None:
    world = LinearSystem(max_steps=1)
    state = world.reset(seed=0)
    _, reward, terminal, cut = world.step(np.array([5.0]))  # bounded to 1
    assert reward == pytest.approx(-float((state**2).sum()) - 0.1)
    assert (terminal, cut) == (False, True)


def test_environments_without_bounded_vectors_are_refused() -> None:
    pytest.importorskip("gymnasium")
    for name in ("CartPole-v1", "NoSuchWorld-v0"):
        with pytest.raises(ConfigError):
            GymnasiumEnvironment(name)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("gymnasium"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency):
        make_environment("Pendulum-v1")
