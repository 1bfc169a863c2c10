"""Credit of turns by hand, and where it is that of tokens or of whole completions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.advantages import gae, group, turns

NAN = math.nan


def numbers(*rows: list[int]) -> list[np.ndarray]:
    return [np.array(row) for row in rows]


def floats(*rows: list[float]) -> list[np.ndarray]:
    return [np.array(row, dtype=float) for row in rows]


def test_gigpo_by_hand() -> None:
    """Two episodes of two turns and one of one, with the discount 1/2.

    Returns of turns: (0 + 1/2 * 4, 4) = (2, 4), (1 + 1/2 * 0, 0) = (1, 0) and (3). States: the
    first turns share state 0; the second turn of the first episode and the third episode's only
    turn are in state 7; the second one's last is in state 9, alone. Without scaling:
        A_E = (4, 1, 3) - 8/3,  A_S of state 0 = (2, 1) - 3/2,  of state 7 = (4, 3) - 7/2.
    """
    found = turns.gigpo(
        np.array([[4.0, 1.0, 3.0]]),
        [floats([0, 4], [1, 0], [3])],
        [numbers([0, 0, 1], [0, 1, 1], [0])],
        [numbers([0, 7], [0, 9], [7])],
        [numbers([0, 1], [0, 2], [0])],
        gamma=0.5,
        step_weight=2.0,
        scale="none",
    )[0]
    first, second, third = 4 - 8 / 3, 1 - 8 / 3, 3 - 8 / 3
    np.testing.assert_allclose(found[0], [first + 2 * 0.5] * 2 + [first + 2 * 0.5])
    np.testing.assert_allclose(found[1], [second - 2 * 0.5, second, second])
    np.testing.assert_allclose(found[2], [third - 2 * 0.5])


def test_gigpo_divides_by_the_deviation_of_each_group() -> None:
    """Rewards 4 and 0 of the episodes: +-2 / sqrt 8; returns 3 and 1 in one state: +-1 / sqrt 2."""
    given = ([floats([3], [1])], [numbers([0], [0])], [numbers([5], [5])], [numbers([0], [1])])
    found = turns.gigpo(np.array([[4.0, 0.0]]), *given, epsilon=1e-12)[0]
    np.testing.assert_allclose(np.concatenate(found), [2**0.5, -(2**0.5)])
    contexts = turns.gigpo(np.array([[4.0, 0.0]]), *given, epsilon=1e-12, anchor="context")[0]
    np.testing.assert_allclose(np.concatenate(contexts), [0.5**0.5, -(0.5**0.5)])


def test_a_trace_without_a_reward_is_in_no_anchor_group() -> None:
    """Rewards come padded by NaN: an episode without one, and a prompt with fewer."""
    found = turns.gigpo(
        np.array([[1.0, NAN, 0.0], [2.0, NAN, NAN]]),
        [floats([1], [NAN, NAN], [0]), floats([2])],
        [numbers([0], [0, 1], [0]), numbers([0])],
        [numbers([0], [0, 1], [0]), numbers([0])],
        [numbers([0], [0, 1], [0]), numbers([0])],
        scale="none",
    )
    np.testing.assert_allclose(np.concatenate(found[0]), [1.0, 0, 0, -1.0])
    assert not found[1][0].any()


def test_returns_of_turns_by_hand() -> None:
    """Returns (3, 2) and (1): of the first turns 3 and 1, of the second 2 alone; mean of all 2."""
    given = [floats([1, 2], [1])], [numbers([0, 1, 1], [0])]
    alike, together = (
        turns.turn_returns(*given, baseline=b, scale="none")[0] for b in ("turn", "group")
    )
    np.testing.assert_allclose(np.concatenate(alike), [1, 0, 0, -1])
    np.testing.assert_allclose(np.concatenate(together), [1, 0, 0, -1])
    discounted = turns.turn_returns(*given, gamma=0.5, baseline="group", scale="none")[0]
    np.testing.assert_allclose(np.concatenate(discounted), np.array([2, 2, 2, 1]) - 5 / 3)


@pytest.mark.parametrize("baseline", ["turn", "group"])
def test_one_turn_is_grpo(baseline: str) -> None:
    rewards = np.array([[1.0, 0.0, 0.5, NAN]])
    rows = [floats([1.0], [0.0], [0.5], [NAN])], [numbers([0, 0], [0], [0], [0])]
    found = turns.turn_returns(*rows, baseline=baseline)[0]
    expected = group.group_mean(rewards)[0]
    np.testing.assert_allclose([a[0] for a in found], expected)
    assert not turns.turn_returns([floats([0.3], [0.3])], [numbers([0], [0])])[0][0].any()


def test_turn_gae_is_gae_where_each_turn_is_a_token() -> None:
    draw = np.random.default_rng(0)
    r, v = draw.normal(size=5), draw.normal(size=5)
    found = turns.turn_gae([[r]], [[v]], [numbers([0, 1, 2, 3, 4])], gamma=0.9, lam=0.7)
    ((expected,),) = gae.gae([[r]], [[v]], gamma=0.9, lam=0.7)
    np.testing.assert_allclose(found.advantages[0][0], expected)
    np.testing.assert_allclose(found.returns[0][0], expected + v)


def test_turn_gae_by_hand() -> None:
    """Turns of 2 and 1 tokens that earn 1 and 2, values 0.5 and 0.25 at the ends of their contexts:
    delta = (1 + 0.25 - 0.5, 2 - 0.25); with lam 1/2 A = (0.75 + 0.5 * 1.75, 1.75).
    """
    found = turns.turn_gae(
        [floats([1, 2])], [floats([0.5, 9.0, 0.25])], [numbers([0, 0, 1])], lam=0.5
    )
    np.testing.assert_allclose(found.advantages[0][0], [1.625, 1.625, 1.75])
    np.testing.assert_allclose(found.returns[0][0], [2.125, 2.125, 2.0])


def test_a_turn_without_tokens_earns_for_the_one_before() -> None:
    found = turns.turn_gae([floats([1, 2, 4])], [floats([0, 0])], [numbers([0, 2])], lam=0.0)
    np.testing.assert_allclose(found.advantages[0][0], [3, 4])
    nothing = turns.turn_gae([[np.zeros(0)]], [[np.zeros(0)]], [[np.zeros(0, dtype=int)]])
    assert len(nothing.advantages[0][0]) == 0
