"""Estimators by hand-worked numbers and by exact expectations over all samples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from posttrain import registry
from posttrain.advantages import baseline, gae, group, shape


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


def test_gdpo_normalises_before_it_sums() -> None:
    """A reward of small spread counts as much as one of large spread, which a sum would drown."""
    table = np.stack([[[0.0, 100.0, 0.0, 100.0]], [[0.0, 0.0, 0.01, 0.01]]], axis=2)
    got = group.gdpo(table, np.array([1.0, 1.0]))
    assert got[0, 0] < 0 < got[0, 3] and got[0, 1] == pytest.approx(got[0, 2], abs=0.03)
    assert got.mean() == pytest.approx(0, abs=1e-12) and got.std(ddof=1) == pytest.approx(
        1, abs=1e-3
    )


@pytest.mark.parametrize(("k", "n"), [(1, 3), (2, 3), (2, 4), (3, 4), (4, 4)])
def test_pass_at_k_is_unbiased(k: int, n: int) -> None:
    """A policy over three answers with rewards 1, .4, 0: the estimate's exact mean is the
    gradient of E[max of k].
    """
    p, reward = np.array([0.2, 0.3, 0.5]), np.array([1.0, 0.4, 0.0])

    def best(q: np.ndarray) -> float:
        return sum(
            math.prod(q[list(s)]) * max(reward[list(s)])
            for s in itertools.product(range(3), repeat=k)
        )

    mean = np.zeros(3)
    for sample in itertools.product(range(3), repeat=n):
        credit = group.pass_at_k(reward[list(sample)][None], k=k)[0]
        for i, a in zip(sample, credit, strict=True):
            mean += (
                math.prod(p[list(sample)]) * a / n * (np.eye(3)[i] - p)
            )  # grad log p_i by the logits
    logits = np.log(p)
    for j in range(3):
        ends = [np.exp(logits + s * 1e-6 * np.eye(3)[j]) for s in (1, -1)]
        slope = (best(ends[0] / ends[0].sum()) - best(ends[1] / ends[1].sum())) / 2e-6
        assert mean[j] == pytest.approx(slope, rel=1e-5)


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


def test_steps_end_with_their_lines() -> None:
    texts = [" 1", "+1", "=2", "\n", "\n", "##", " 2", ""]
    got = shape.step_rewards(texts, [1.0, 0.5])
    assert [(t, x) for t, x in enumerate(got) if not math.isnan(x)] == [(3, 1.0), (7, 0.5)]
    assert np.nansum(shape.step_rewards(["a\nb\n", "c"], [1.0, 2.0, 4.0])) == 7.0
    assert np.isnan(shape.step_rewards([" ", "\n"], [1.0])).all()


def test_whitening_corrections_and_controllers() -> None:
    counted = [np.array([True, True]), np.array([True, False])]
    got = shape.whiten([np.array([1.0, 2.0]), np.array([3.0, 99.0])], counted)
    np.testing.assert_allclose(np.concatenate(got), [-1, 0, 1, 0], atol=1e-7)
    old, engine = np.log([0.5, 0.4]), np.log([0.1, 0.4])
    for mode, expected in {
        "token_truncate": [3.0, 1.0],
        "token_mask": [0.0, 1.0],
        "sequence_truncate": [3.0, 3.0],
        "sequence_mask": [0.0, 0.0],
    }.items():
        np.testing.assert_allclose(
            shape.importance_weights(old, engine, mode, 3.0), expected, err_msg=mode
        )
    np.testing.assert_allclose(
        shape.importance_weights(old, engine, "sequence_mask", 6.0), [5.0, 5.0]
    )
    entropies, every = (
        [np.array([0.1, 0.9]), np.array([0.5, 0.7, 0.2])],
        [np.ones(2, dtype=bool), np.ones(3, dtype=bool)],
    )
    assert [list(k) for k in shape.top_entropy(entropies, every, 0.4)] == [
        [False, True],
        [False, True, False],
    ]
    # Tokens that are not trained take no place among the share.
    kept = shape.top_entropy(entropies, [np.zeros(2, dtype=bool), every[1]], 1 / 3)
    assert list(kept[1]) == [False, True, False]
    assert shape.next_kl_weight(0.1, 9.0, 6.0) == pytest.approx(
        0.1 * 1.02
    )  # the error is cut at 0.2
    assert shape.next_kl_weight(0.1, 5.4, 6.0) == pytest.approx(0.1 * 0.99)
    assert (
        shape.next_entropy_weight(0.0, 1.0, 0.5, 0.1) == 0
        and shape.next_entropy_weight(0.3, 0.1, 0.5, 0.1) == 0.4
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
