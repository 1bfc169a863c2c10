"""Returns and temporal differences against their defining sums."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.advantages import gae


def test_gae_between_monte_carlo_and_temporal_difference() -> None:
    draw = np.random.default_rng(0)
    r, v = draw.normal(size=6), draw.normal(size=6)
    (((one,),), ((zero,),)) = (gae.gae([[r]], [[v]], gamma=0.9, lam=lam) for lam in (1.0, 0.0))
    returns = [sum(0.9 ** (u - t) * r[u] for u in range(t, 6)) for t in range(6)]
    np.testing.assert_allclose(one, np.array(returns) - v)
    np.testing.assert_allclose(zero, r + 0.9 * np.append(v[1:], 0) - v)
    (((td,),), ((mc,),)) = (gae.n_step([[r]], [[v]], n=n, gamma=0.9) for n in (1, 9))
    np.testing.assert_allclose(td, zero)
    np.testing.assert_allclose(mc, one)
    ((two,),) = gae.n_step([[r]], [[v]], n=2, gamma=0.9)
    assert two[1] == pytest.approx(r[1] + 0.9 * r[2] + 0.81 * v[3] - v[1])
    ((half,),) = gae.gae([[r]], [[v]], gamma=0.9, lam=0.5)
    deltas = zero
    assert half[2] == pytest.approx(sum(0.45**i * d for i, d in enumerate(deltas[2:])))
    np.testing.assert_allclose(gae.reward_to_go([[r]], gamma=0.9)[0][0], returns)


def test_process_mode_by_hand() -> None:
    """Step rewards 1, 0 and 1 (mean 2/3, std 1/sqrt 3): tokens get what is still to come."""
    nan = math.nan
    a, b = np.array([nan, 1.0, nan, 0.0]), np.array([nan, 1.0])
    ((first, second),) = gae.group_process([[a, b]], epsilon=0.0)
    up, down = (1 - 2 / 3) * math.sqrt(3), -2 / 3 * math.sqrt(3)
    np.testing.assert_allclose(first, [up + down, up + down, down, down])
    np.testing.assert_allclose(second, [up, up])
    assert not gae.group_process([[np.array([1.0, nan]), np.array([nan, 1.0])]])[0][0].any()
