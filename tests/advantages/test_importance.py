"""Importance weights and rejection, by hand and against plain references."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from posttrain.advantages.importance import accepted, importance_weights, normalized

MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
REJECTIONS = [
    f"{level}_{k}"
    for level in ("token", "sequence_sum", "sequence_mean", "sequence_max")
    for k in ("k1", "k2", "k3")
    if (level, k) != ("sequence_max", "k1")
]


def test_weights_by_hand() -> None:
    """Ratios 5 and 1: of tokens, and of the sequence, 5."""
    old, engine = np.log([0.5, 0.4]), np.log([0.1, 0.4])
    for mode, expected in {
        "token_truncate": [3.0, 1.0],
        "token_mask": [0.0, 1.0],
        "sequence_truncate": [3.0, 3.0],
        "sequence_mask": [0.0, 0.0],
    }.items():
        np.testing.assert_allclose(
            importance_weights(old, engine, mode, 3.0), expected, err_msg=mode
        )
    np.testing.assert_allclose(importance_weights(old, engine, "sequence_mask", 6.0), [5.0, 5.0])


def test_a_band_leaves_out_what_is_below_it() -> None:
    old, engine = np.log([0.1, 0.3, 0.5]), np.log([0.5, 0.3, 0.1])  # ratios 1/5, 1, 5
    weights = importance_weights(old, engine, "token_mask", 4.0, 0.25)
    np.testing.assert_allclose(weights, [0.0, 1.0, 0.0])
    weights = importance_weights(old, engine, "token_mask", 6.0, 0.1)
    np.testing.assert_allclose(weights, [0.2, 1.0, 5.0])


@pytest.mark.parametrize("mode", MODES)
def test_weights_are_those_of_exact_fractions(mode: str) -> None:
    pairs = [(3, 4), (9, 2), (5, 5), (1, 6)]
    ratios = [Fraction(a, b) for a, b in pairs]
    if mode.startswith("sequence"):
        ratios = [math.prod(ratios)] * 4
    high, low = Fraction(3, 1), Fraction(1, 4)
    if mode.endswith("truncate"):
        expected = [min(r, high) for r in ratios]
    else:
        expected = [r if low <= r <= high else Fraction(0) for r in ratios]
    old, engine = np.log([a / 10 for a, _ in pairs]), np.log([b / 10 for _, b in pairs])
    weights = importance_weights(old, engine, mode, 3.0, 0.25 if "mask" in mode else 0.0)
    np.testing.assert_allclose(weights, [float(x) for x in expected], rtol=1e-12)


def test_ratios_are_bounded() -> None:
    """Nothing overflows, whatever a broken engine reports."""
    old, engine = np.array([0.0, -900.0]), np.array([-900.0, 0.0])
    weights = importance_weights(old, engine, "token_truncate", math.inf)
    np.testing.assert_allclose(weights, np.exp([20.0, -20.0]))
    some = importance_weights(old[:1].repeat(9), engine[:1].repeat(9), "sequence_truncate", 1e99)
    np.testing.assert_allclose(some, np.exp([20.0] * 9))
    for mode in REJECTIONS:
        mask = accepted(old, engine, np.ones(2, dtype=bool), mode, low=-1.0, high=1.0)
        # d and -d cancel in a sum of k1: the sequence as a whole has the ratio 1.
        assert mask.tolist() == [mode in ("sequence_sum_k1", "sequence_mean_k1")] * 2


def test_normalised_weights_have_the_mean_1_over_what_counts() -> None:
    weights = [np.array([2.0, 4.0, 100.0]), np.array([6.0]), np.array([100.0])]
    counted = [np.array([True, True, False]), np.array([True]), np.array([False])]
    by_token = normalized(weights, counted, per_sequence=False)
    np.testing.assert_allclose(np.concatenate(by_token), [0.5, 1.0, 25.0, 1.5, 25.0])
    weights = [np.full(3, 2.0), np.array([6.0]), np.array([100.0])]
    by_sequence = normalized(weights, counted, per_sequence=True)
    np.testing.assert_allclose(np.concatenate(by_sequence), [0.5, 0.5, 0.5, 1.5, 25.0])
    nothing = normalized([np.zeros(2)], [np.ones(2, dtype=bool)], per_sequence=False)
    np.testing.assert_array_equal(nothing[0], [0.0, 0.0])


def test_rejection_by_hand() -> None:
    """d = 1, -1 and 0; the last token is no target, and takes no part in a sum or a mean."""
    old, engine = np.array([-1.0, -2.0, -1.0, -1.0]), np.array([-2.0, -1.0, -1.0, -9.0])
    counted = np.array([True, True, True, False])
    e = math.e
    for mode, low, high, expected in [
        ("token_k1", -1.5, 0.5, [False, True, True]),
        ("token_k2", 0.0, 0.4, [False, False, True]),
        ("token_k3", 0.0, 0.5, [False, True, True]),  # e - 2 = 0.72 and 1 / e = 0.37
        ("sequence_sum_k1", -0.1, 0.1, [True] * 3),
        ("sequence_sum_k2", 0.0, 0.9, [False] * 3),
        ("sequence_sum_k2", 0.0, 1.1, [True] * 3),
        ("sequence_sum_k3", 0.0, e - 2 + 1 / e + 1e-9, [True] * 3),
        ("sequence_sum_k3", 0.0, e - 2 + 1 / e - 1e-9, [False] * 3),
        ("sequence_mean_k2", 0.0, 1 / 3 + 1e-9, [True] * 3),
        ("sequence_mean_k2", 0.0, 1 / 3 - 1e-9, [False] * 3),
        ("sequence_max_k3", 0.0, e - 2 + 1e-9, [True] * 3),
        ("sequence_max_k3", 0.0, e - 2 - 1e-9, [False] * 3),
    ]:
        mask = accepted(old, engine, counted, mode, low=low, high=high)
        assert mask.tolist() == [*expected, False], (mode, low, high)


@pytest.mark.parametrize("mode", REJECTIONS)
def test_rejection_against_a_plain_reference(mode: str) -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        length = int(draw.integers(1, 7))
        old, engine = draw.normal(-2, 0.7, length), draw.normal(-2, 0.7, length)
        counted = draw.random(length) < 0.8
        low, high = (-0.6, 0.6) if mode.endswith("k1") else (-math.inf, 0.3)
        statistic = []
        for o, e in zip(old, engine, strict=True):
            d = o - e
            numbers = {"k1": d, "k2": d * d / 2, "k3": math.exp(d) - 1 - d}
            statistic.append(numbers[mode[-2:]])
        if not mode.startswith("token"):
            some = [x for x, c in zip(statistic, counted, strict=True) if c]
            value = 0.0
            if some:
                whole = {"sum": sum(some), "mean": sum(some) / len(some), "max": max(some)}
                value = whole[mode.split("_")[1]]
            statistic = [value] * length
        expected = [bool(c) and low <= x <= high for x, c in zip(statistic, counted, strict=True)]
        assert accepted(old, engine, counted, mode, low=low, high=high).tolist() == expected
