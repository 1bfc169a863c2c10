import itertools
import math

import numpy as np
import pytest

from posttrain.advantages import group
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


@pytest.mark.parametrize(
    "name",
    ["group_mean", "leave_one_out", "opo", "gpg", "max_likelihood", "pass_at_k", "batch_mean"],
)
def test_ragged_groups_are_those_of_their_own_size(name: str) -> None:
    """Rows that NaN fills get what the shorter groups get by themselves, the step's number of
    completions and its mean being those there are.
    """
    from posttrain import registry

    function = registry.advantages.get(name)
    inputs = registry.advantages.entry(name).inputs
    ragged = np.array([[1.0, 0.0, 2.0, 0.5], [3.0, 1.0, NAN, NAN]])
    lengths = np.array([[2, 3, 4, 5], [1, 2, 0, 0]])
    given = {"rewards": ragged, "lengths": lengths}
    settings = {"k": 2} if name == "pass_at_k" else {}
    credit = function(*(given[n] for n in inputs), **settings)
    assert not credit[1, 2:].any() and np.isfinite(credit).all()
    if name == "batch_mean":
        np.testing.assert_allclose(credit[1, :2], np.array([3.0, 1.0]) - 7.5 / 6)
        return
    alone = {"rewards": ragged[1:, :2], "lengths": lengths[1:, :2]}
    np.testing.assert_allclose(credit[1, :2], function(*(alone[n] for n in inputs), **settings)[0])


def test_gpg_counts_the_completions_that_there_are() -> None:
    """Of 3 + 2 completions the group of 2 ties, so that those of the other weigh 5 / 3."""
    credit = group.gpg(np.array([[3.0, 0.0, 0.0], [1.0, 1.0, NAN]]))
    np.testing.assert_allclose(credit, np.array([[2.0, -1.0, -1.0], [0, 0, 0]]) * 5 / 3)
