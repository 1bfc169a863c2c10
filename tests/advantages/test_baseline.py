"""Baselines by hand, and estimators on a bandit whose answer can be verified."""

from __future__ import annotations

import math

import numpy as np

from posttrain import registry
from posttrain.advantages import baseline, group


def test_by_hand() -> None:
    rewards = np.array([[1.0, 0.0], [0.0, 3.0]])
    np.testing.assert_allclose(baseline.batch_mean(rewards), rewards - 1)
    np.testing.assert_allclose(baseline.no_baseline(rewards), rewards)
    np.testing.assert_allclose(
        baseline.greedy_baseline(rewards, np.array([1.0, 2.0])), [[0, -1], [-2, 1]]
    )
    first, b = baseline.moving_average(rewards, math.nan, decay=0.5)
    np.testing.assert_allclose(first, rewards - 1)
    second, b = baseline.moving_average(rewards + 2, b, decay=0.5)  # b was 1; now 1/2 + 3/2
    np.testing.assert_allclose(second, rewards + 1)
    assert b == 2
    # OPO: lengths 1 and 3 give b = (1 * 1 + 3 * 0) / 4 and (1 * 0 + 3 * 3) / 4
    np.testing.assert_allclose(
        group.opo(rewards, np.array([[1, 3], [1, 3]])), [[0.75, -0.25], [-2.25, 0.75]]
    )
    # GPG: one of two groups ties, so the other counts twice
    np.testing.assert_allclose(group.gpg(np.array([[1.0, 0.0], [1.0, 1.0]])), [[1, -1], [0, 0]])
    np.testing.assert_allclose(
        group.max_likelihood(np.array([[1.0, 0, 0, 0], [0, 0, 0, 0]])), [[3, -1, -1, -1], [0] * 4]
    )


def bandit(
    estimator: str, seed: int, *, arms: int = 8, num: int = 8, rate: float = 0.5, most: int = 2000
) -> int:
    """Steps until the right one of `arms` has probability above .95, from uniform logits and
    with ascent of size `rate`.
    """
    draw = np.random.default_rng(seed)
    logits, right = np.zeros(arms), 0
    inputs = registry.advantages.entry(estimator).inputs
    function = registry.advantages.get(estimator)
    for step in range(most):
        p = np.exp(logits - logits.max())
        p /= p.sum()
        if p[right] > 0.95:
            return step
        chosen = draw.choice(arms, size=num, p=p)
        rewards = (chosen == right).astype(float)[None]
        given = {"rewards": rewards, "greedy_rewards": np.array([float(p.argmax() == right)])}
        credit = function(*(given[n] for n in inputs))[0]
        logits += rate * np.mean(
            [a * (np.eye(arms)[c] - p) for a, c in zip(credit, chosen, strict=True)], axis=0
        )
    return most


def test_estimators_on_a_verifiable_bandit() -> None:
    """Median steps over 11 seeds; the order is what counts: dividing by the deviation of a
    group learns twice as fast.
    """
    median = {
        name: int(np.median([bandit(name, seed) for seed in range(11)]))
        for name in ("no_baseline", "batch_mean", "leave_one_out", "greedy_baseline", "group_mean")
    }
    for name, expected in {
        "no_baseline": 64,
        "batch_mean": 67,
        "leave_one_out": 61,
        "greedy_baseline": 61,
        "group_mean": 29,
    }.items():
        assert abs(median[name] - expected) <= 12, median
    assert median["group_mean"] < 0.6 * min(v for k, v in median.items() if k != "group_mean")
    assert not group.group_mean(np.ones((1, 8))).any()


def test_nothing_to_learn_is_exactly_nothing() -> None:
    """Rewards that tie leave no rounding behind, and a step without any reward does not move
    the average.
    """
    ties = np.full((2, 7), 0.1 + 0.2)
    assert not group.leave_one_out(ties).any()
    credit, b = baseline.moving_average(np.full((1, 3), np.nan), 0.6)
    assert b == 0.6 and not credit.any()
