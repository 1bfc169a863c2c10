import math

import numpy as np
import pytest

from posttrain.advantages.group import group_mean, leave_one_out

NAN = math.nan


def test_group_mean_by_hand() -> None:
    """Rewards (1, 0, 0, 0): mean 1/4, Bessel-corrected std 1/2, so (0.75, -0.25, ...) / 0.5001."""
    got = group_mean(np.array([[1.0, 0, 0, 0]]))
    np.testing.assert_allclose(got, np.array([[0.75, -0.25, -0.25, -0.25]]) / (0.5 + 1e-4))


def test_scales() -> None:
    rewards = np.array([[1.0, 0.0], [5.0, 3.0]])
    np.testing.assert_allclose(group_mean(rewards, scale="none"), [[0.5, -0.5], [1.0, -1.0]])
    std = np.std([1, 0, 5, 3], ddof=1)
    np.testing.assert_allclose(
        group_mean(rewards, scale="batch"), np.array([[0.5, -0.5], [1, -1]]) / (std + 1e-4)
    )


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_ties_give_exactly_zero(scale: str) -> None:
    rewards = np.array([[0.1 + 0.2, 0.3, 0.3], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    assert not group_mean(rewards, scale=scale).any()  # type: ignore[arg-type]
    np.testing.assert_allclose(leave_one_out(rewards), 0, atol=1e-15)


def test_leave_one_out_by_hand() -> None:
    """Rewards (1, 0, 2): 1 - (0 + 2)/2 = 0; 0 - 3/2; 2 - 1/2."""
    np.testing.assert_allclose(leave_one_out(np.array([[1.0, 0, 2]])), [[0.0, -1.5, 1.5]])


def test_missing_rewards_have_no_advantage_and_do_not_count() -> None:
    with_gap = np.array([[1.0, NAN, 0.0, 0.0]])
    without = np.array([[1.0, 0.0, 0.0]])
    for estimator in (group_mean, leave_one_out):
        got = estimator(with_gap)
        assert got[0, 1] == 0
        np.testing.assert_allclose(got[0, [0, 2, 3]], estimator(without)[0])
    for row in ([NAN, NAN], [1.0, NAN]):
        assert not group_mean(np.array([row])).any()
        assert not leave_one_out(np.array([row])).any()


def test_sums_to_zero_and_ignores_order() -> None:
    rewards = np.random.default_rng(0).normal(size=(6, 8))
    for estimator in (group_mean, leave_one_out):
        got = estimator(rewards)
        np.testing.assert_allclose(got.sum(axis=1), 0, atol=1e-9)
        np.testing.assert_allclose(estimator(rewards[::-1, ::-1]), got[::-1, ::-1])
