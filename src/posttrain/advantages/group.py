"""Baselines from the other completions of the same prompt (shapes: see the package)."""

from __future__ import annotations

import math
import warnings
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from posttrain.registry import advantages

Array = NDArray[np.float64]


def nan_statistics(rewards: Array, axis: int | None) -> tuple[Array, Array]:
    """Mean and Bessel-corrected standard deviation that ignore NaN; 0 where there is nothing to
    average.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=RuntimeWarning)
        mean = np.nanmean(rewards, axis=axis, keepdims=True)
        std = np.nanstd(rewards, axis=axis, ddof=1, keepdims=True)
    return np.nan_to_num(mean), np.nan_to_num(std)


def centre(rewards: Array) -> Array:
    """rewards [P, G] minus the mean of their group, NaN where there is none."""
    centred = rewards - nan_statistics(rewards, axis=1)[0]
    # Rounding in the mean of equal rewards must not become a signal once it is divided by epsilon.
    return np.where(
        np.nanmax(np.abs(np.nan_to_num(centred)), axis=1, keepdims=True) < 1e-9, 0.0, centred
    )


@advantages.register
def group_mean(
    rewards: Array, *, scale: Literal["group", "batch", "none"] = "group", epsilon: float = 1e-4
) -> NDArray[np.float64]:
    """GRPO's advantage: A_i = (r_i - mean of the group) / (std + epsilon).

    scale: whose standard deviation divides: the group's (GRPO, arXiv 2402.03300), the whole
    batch's, or none (Dr.GRPO, arXiv 2503.20783). Standard deviations are Bessel-corrected. A group
    whose rewards tie gets exactly 0. rewards [P, G] -> [P, G].
    """
    std = nan_statistics(rewards, axis=1)[1]
    centred = centre(rewards)
    if scale == "batch":
        std = nan_statistics(rewards, axis=None)[1]
    if scale != "none":
        centred = centred / (std + epsilon)
    return np.nan_to_num(centred)


@advantages.register
def leave_one_out(rewards: Array) -> NDArray[np.float64]:
    """RLOO's advantage: A_i = r_i - mean of the other rewards of the group (arXiv 2402.14740).

    A completion without siblings that have a reward gets 0. rewards [P, G] -> [P, G].
    """
    counts = np.sum(~np.isnan(rewards), axis=1, keepdims=True)
    # r - (sum - r) / (n - 1) = (r - mean) n / (n - 1), which is exactly 0 where all rewards tie.
    return np.nan_to_num(centre(rewards) * counts / np.maximum(counts - 1, 1))


@advantages.register
def opo(rewards: Array, lengths: Array) -> NDArray[np.float64]:
    """OPO's advantage: r_i - b with the baseline of least variance, b = sum_j L_j r_j / sum_j L_j
    (arXiv 2505.23585).

    It is optimal where the squared norm of a completion's score function grows as its length L.
    rewards, lengths [P, G] -> [P, G].
    """
    counted = np.where(np.isnan(rewards), 0.0, lengths)
    baseline = np.sum(counted * np.nan_to_num(rewards), axis=1, keepdims=True) / np.maximum(
        counted.sum(axis=1, keepdims=True), 1
    )
    difference = rewards - baseline
    return np.nan_to_num(np.where(np.abs(difference) < 1e-9, 0.0, difference))


@advantages.register
def gpg(rewards: Array) -> NDArray[np.float64]:
    """GPG's advantage: A_i = (B / (B - M)) (r_i - mean of the group), with no division by a
    deviation (arXiv 2504.02546).

    B completions in the step, of which M are in groups whose rewards tie: the factor makes up for
    their zero gradient. rewards [P, G] -> [P, G].
    """
    centred = np.nan_to_num(centre(rewards))
    sizes = np.sum(~np.isnan(rewards), axis=1)
    active = int(sizes[centred.any(axis=1)].sum())
    return centred * (int(sizes.sum()) / max(active, 1))


@advantages.register
def max_likelihood(rewards: Array) -> NDArray[np.float64]:
    """MaxRL's advantage: A_i = (r_i - mean) / mean of the group, 0 where the mean is 0 (arXiv
    2602.02710).

    Of rewards 0 and 1 the mean of A_i grad log pi(y_i) is the gradient of log p, p the chance of a
    right answer, to the order that G samples can tell: hard prompts weigh more. Rewards must not be
    negative. rewards [P, G] -> [P, G].
    """
    mean = nan_statistics(rewards, axis=1)[0]
    return np.nan_to_num(centre(rewards) / np.where(mean > 0, mean, np.inf))


@advantages.register
def pass_at_k(rewards: Array, *, k: int = 4) -> NDArray[np.float64]:
    """The unbiased gradient of the expected best of k completions, for rewards 0 and 1 of pass@k
    (arXiv 2505.15201).

    A_i = k E[max(r_i - max of k - 1 others, 0)] over all choices of k - 1 of the other completions:
    what i adds to a set of k. The mean over i of A_i grad log pi(y_i) is an unbiased estimate of
    grad E[max of k]. Needs at least k rewards of a prompt, which else gets 0; k = 1 gives A = r.
    rewards [P, G] -> [P, G].
    """
    credit = np.zeros_like(rewards)
    for p, row in enumerate(rewards):
        rewarded = np.flatnonzero(~np.isnan(row))
        if len(rewarded) < k:
            continue
        for i in rewarded:
            if k == 1:
                credit[p, i] = row[i]
                continue
            others = np.sort(row[rewarded[rewarded != i]])
            ranks = np.arange(
                len(others)
            )  # chance that the highest of k - 1 drawn is the one of this rank
            chance = [math.comb(int(j), k - 2) / math.comb(len(others), k - 1) for j in ranks]
            credit[p, i] = k * float(np.dot(chance, np.maximum(row[i] - others, 0)))
    return credit


@advantages.register(kl_in_reward=False)
def gdpo(
    reward_table: Array, reward_weights: Array, *, epsilon: float = 1e-4
) -> NDArray[np.float64]:
    """GDPO's advantage for several objectives: each normalised in its group, then their weighted
    sum (arXiv 2601.05242).

    S = sum_f w_f (r_f - mean) / (std + epsilon) over the group for each reward function f; A = (S -
    mean) / (std + epsilon) over the step. A rare reward is not drowned by one that varies more. A
    reward that is missing counts as 0 in S. reward_table [P, G, F], reward_weights [F] -> [P, G].
    """
    parts = [
        w * group_mean(reward_table[:, :, f], epsilon=epsilon) for f, w in enumerate(reward_weights)
    ]
    total = np.where(np.isnan(reward_table).all(axis=2), np.nan, np.sum(parts, axis=0))
    mean, std = nan_statistics(total, axis=None)
    return np.nan_to_num((total - mean) / (std + epsilon))
