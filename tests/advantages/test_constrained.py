"""The Lagrange weight of a cost: by hand, and on a bandit that has to be safe."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.advantages.constrained import lagrangian
from posttrain.errors import ConfigError


def z(values: list[float]) -> np.ndarray:
    x = np.array(values)
    return (x - x.mean()) / (x.std(ddof=1) + 1e-4)


def test_by_hand() -> None:
    reward, cost = [1.0, 0.0, 3.0], [1.0, 0.0, 0.0]
    table = np.stack([np.array([reward]), np.array([cost])], axis=2)
    advantages, weight = lagrangian(table, np.array([1.0, 1.0]), 2.0, max_cost=0.1, rate=0.5)
    assert np.allclose(advantages, (z(reward) - 2 * z(cost)) / 3)
    assert weight == pytest.approx(2 * math.exp(0.5 * (1 / 3 - 0.1)))


def test_all_but_the_last_reward_are_summed_by_their_weights() -> None:
    table = np.array([[[1.0, 2.0, 0.0], [0.0, 1.0, 0.0]]])
    advantages, weight = lagrangian(table, np.array([2.0, 0.5, 9.0]), math.nan)
    assert np.allclose(advantages, z([3.0, 0.5])[None] / 2)
    assert weight == 1.0


def test_what_has_no_reward_or_no_cost_has_no_advantage() -> None:
    table = np.array([[[1.0, 0.0], [np.nan, 1.0], [0.0, np.nan], [0.0, 1.0]]])
    advantages, weight = lagrangian(table, np.ones(2), 1.0)
    assert advantages[0, 1] == advantages[0, 2] == 0
    assert advantages[0, 0] > 0 > advantages[0, 3]
    assert weight == pytest.approx(math.exp(0.1 * 0.5))
    none, kept = lagrangian(np.full((1, 2, 2), np.nan), np.ones(2), 3.0)
    assert not none.any() and kept == 3.0


def test_one_reward_is_refused() -> None:
    with pytest.raises(ConfigError):
        lagrangian(np.zeros((1, 2, 1)), np.ones(1), 1.0)


def test_a_policy_ends_at_the_bound_of_the_cost() -> None:
    """Two answers: the better paid one costs 1. The share of it settles near the bound."""
    draw, logit, weight, shares = np.random.default_rng(0), 0.0, math.nan, []
    for _ in range(3000):
        p = 1 / (1 + math.exp(-logit))
        risky = (draw.random((4, 8)) < p).astype(float)
        table = np.stack([risky, risky], axis=2)
        advantages, weight = lagrangian(table, np.ones(2), weight, max_cost=0.3, rate=0.05)
        logit += 0.1 * float((advantages * (risky - p)).mean())
        shares.append(p)
    assert np.mean(shares[-1500:]) == pytest.approx(0.3, abs=0.06)
