"""Points, smoothing and scales."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from posttrain.report.series import finite_points, padded, short, smooth, spread, thin, ticks


def test_finite_points() -> None:
    assert finite_points([1, 2, 3, 4], [0.5, None, math.nan, math.inf]) == [(1.0, 0.5)]


def test_thinning_keeps_measured_points_ends_and_spikes() -> None:
    points = [(float(i), math.sin(i)) for i in range(3000)]
    points[1234] = (1234.0, 99.0)
    kept = thin(points, 240)
    assert len(kept) <= 240
    assert set(kept) <= set(points)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert (1234.0, 99.0) in kept
    assert kept == sorted(kept)
    assert thin(points[:240], 240) == points[:240]


def test_smoothing_follows_a_straight_line_exactly() -> None:
    line = [(float(i), 3.0 - 0.5 * i) for i in range(100)]
    assert [v for _, v in smooth(line)] == pytest.approx([v for _, v in line], abs=1e-9)


def test_smoothing_lessens_noise_and_takes_few_points() -> None:
    zigzag = [(float(i), float(i % 2)) for i in range(200)]
    middle = [v for _, v in smooth(zigzag)][20:-20]
    assert all(abs(v - 0.5) < 0.05 for v in middle)
    assert smooth([(1.0, 2.0)]) == [(1.0, 2.0)]
    assert len(smooth(zigzag[:2])) == 2


def test_spread() -> None:
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread(range(3), 4) == [0, 1, 2]
    assert spread(range(3), 1) == [2]


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-0.05, 0.05), (0.17, 0.19), (0, 3e-5), (1, 3000), (1800, 2211)]
)
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 7
    assert all(low - 1e-12 <= t <= high + 1e-12 for t in found)
    gaps = {round((b - a) / (found[1] - found[0]), 6) for a, b in pairwise(found)}
    assert gaps == {1.0}


def test_ticks_of_one_value() -> None:
    assert ticks(5, 5) == [5]


def test_padding() -> None:
    assert padded(0.0, 1.0) == (0.0, 1.06)
    low, high = padded(2.0, 2.0)
    assert low < 2.0 < high
    assert padded(0.0, 0.0) == (0.0, 1.0)


def test_short() -> None:
    values = (0, 0.5, 3e-4, 3.25e-5, 1234.5, 2_100_000.0, -0.05, 60_000.0)
    assert [short(v) for v in values] == [
        "0",
        "0.5",
        "3e-4",
        "3.25e-5",
        "1234",
        "2.1M",
        "-0.05",
        "60k",
    ]
