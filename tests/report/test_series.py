"""Points, smoothing and scales."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from posttrain.report.series import (
    finite_points,
    log_ticks,
    padded,
    short,
    smooth,
    spread,
    thin,
    ticks,
)


def test_finite_points() -> None:
    assert finite_points([1, 2, 3, 4], [0.5, None, math.nan, math.inf]) == [(1.0, 0.5)]


def test_thinning_keeps_measured_points_ends_and_spikes() -> None:
    points = [(float(i), math.sin(i)) for i in range(3000)]
    points[1234] = (1234.0, 99.0)
    thinned = thin(points, 240)
    assert len(thinned) <= 240
    assert set(thinned) <= set(points)
    assert (thinned[0], thinned[-1]) == (points[0], points[-1])
    assert (1234.0, 99.0) in thinned
    assert thinned == sorted(thinned)
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
    values = ticks(low, high)
    assert 3 <= len(values) <= 7
    assert all(low - 1e-12 <= t <= high + 1e-12 for t in values)
    gaps = {round((b - a) / (values[1] - values[0]), 6) for a, b in pairwise(values)}
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


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.5, 200.0, [1.0, 10.0, 100.0]),
        (0.9, 4.0, [1.0, 2.0]),
        (1.1, 1.9, [1.1, 1.9]),
        (1e-7, 1.0, [1e-7, 1e-5, 1e-3, 1e-1]),
    ],
)
def test_log_ticks(low: float, high: float, expected: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(expected)
