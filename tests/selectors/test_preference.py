"""Selectors of pairs against brute force over all pairs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from posttrain.selectors import preference as s

REWARDS = np.random.default_rng(0).normal(size=(12, 5, 3))


def test_delta_ucb_is_the_widest_optimistic_pair() -> None:
    mean, deviation = REWARDS.mean(2), REWARDS.std(2)
    best = []
    for m, e in zip(mean, deviation, strict=True):
        gaps = {(i, j): m[i] + e[i] - (m[j] - e[j]) for i, j in itertools.permutations(range(5), 2)}
        best.append((max(gaps.values()), max(gaps, key=lambda pair: gaps[pair])))
    order = sorted(range(12), key=lambda i: -best[i][0])
    expected = [[i, *best[i][1]] for i in order[:4]]
    assert s.delta_ucb(REWARDS, 4).tolist() == expected


def test_delta_ucb_never_pairs_a_completion_with_itself() -> None:
    rewards = np.array([[[5.0, -5.0], [0.0, 0.1], [0.0, 0.0]]])  # the first has both bounds
    ((_, better, worse),) = s.delta_ucb(rewards, 1, width=10.0).tolist()
    assert better == 0 and worse != 0


def test_closest_pair_and_its_opposite() -> None:
    mean = REWARDS.mean(2)
    pairs = list(itertools.combinations(range(5), 2))
    gaps = np.array([[abs(m[i] - m[j]) for i, j in pairs] for m in mean])
    chosen = s.closest_pair(REWARDS, 3)
    assert chosen[:, 0].tolist() == np.argsort(gaps.min(1))[:3].tolist()
    for prompt, better, worse in chosen.tolist():
        assert mean[prompt, better] - mean[prompt, worse] == pytest.approx(gaps[prompt].min())


def test_apl_takes_wide_pairs_of_uncertain_prompts() -> None:
    entropies = np.arange(12.0)
    chosen = s.apl(entropies, REWARDS, 2, oversample=2)
    assert set(chosen[:, 0].tolist()) <= {8, 9, 10, 11}
    mean = REWARDS.mean(2)
    gaps = {i: np.ptp(mean[i]) for i in (8, 9, 10, 11)}
    assert chosen[:, 0].tolist() == sorted(gaps, key=lambda i: -gaps[i])[:2]


def test_drts_takes_the_best_of_one_draw_and_the_worst_of_another() -> None:
    chosen = s.drts(REWARDS, 12, np.random.default_rng(4))
    first, second = np.random.default_rng(4).integers(3, size=(2, 12))
    for prompt, better, worse in chosen.tolist():
        assert better == REWARDS[prompt, :, first[prompt]].argmax()
        assert better != worse
        others = np.delete(REWARDS[prompt, :, second[prompt]], better)
        assert REWARDS[prompt, worse, second[prompt]] == others.min()


def test_random_pairs_differ() -> None:
    chosen = s.random_pair(12, 5, 6, np.random.default_rng(0))
    assert chosen.shape == (6, 3) and (chosen[:, 1] != chosen[:, 2]).all()
