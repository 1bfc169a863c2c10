"""Numbers of a chart before it is drawn: thinned, smoothed, with the ticks of its axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

MAX_POINTS = 240
Point = tuple[float, float]


def number(value: Any) -> float | None:
    """A finite number, else None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def finite_points(steps: Sequence[Any], values: Sequence[Any]) -> list[Point]:
    """Pairs whose value is a finite number."""
    return [
        (float(s), float(v)) for s, v in zip(steps, values, strict=True) if number(v) is not None
    ]


def thin(points: list[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` of the points: the lowest and the highest of equal stretches, and both ends.

    A spike of one step stays visible, which it would not in means, and every point that is left is
    a measured one.
    """
    if len(points) <= limit:
        return points
    stretches = max((limit - 2) // 2, 1)
    inner, indices = range(1, len(points) - 1), {0, len(points) - 1}
    for i in range(stretches):
        part = inner[i * len(inner) // stretches : (i + 1) * len(inner) // stretches]
        lowest = min(part, key=lambda j: points[j][1])
        highest = max(part, key=lambda j: points[j][1])
        indices |= {lowest, highest}
    return [points[j] for j in sorted(indices)]


def smooth(points: list[Point], share: float = 0.12) -> list[Point]:
    """A straight line fitted around each point, through about `share` of all points, so that a
    trend is followed without lag.

    Sums over the window are differences of running sums, so that the cost does not grow with it.
    """
    half = max(round(share * len(points) / 2), 1)
    sums = [(0.0, 0.0)]
    for i, (_, value) in enumerate(points):
        sums.append((sums[-1][0] + value, sums[-1][1] + i * value))
    low, high = min((v for _, v in points), default=0.0), max((v for _, v in points), default=0.0)
    out = []
    for i, (step, _) in enumerate(points):
        start = max(min(i - half, len(points) - 2 * half - 1), 0)  # a whole window at the ends too
        end = min(start + 2 * half + 1, len(points))
        n, centre = end - start, (start + end - 1) / 2
        mean = (sums[end][0] - sums[start][0]) / n
        covariance = sums[end][1] - sums[start][1] - centre * mean * n
        slope = covariance * 12 / (n * (n * n - 1)) if n > 1 else 0.0
        # Within the range of the values: a share must not fall below 0.
        out.append((step, min(max(mean + slope * (i - centre), low), high)))
    return out


def spread(items: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` items, evenly spread, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    if limit == 1:
        return [items[-1]]
    return [items[i * (len(items) - 1) // (limit - 1)] for i in range(limit)]


def ticks(low: float, high: float, least: int = 3) -> list[float]:
    """Round numbers within [low, high], 1, 2 or 5 times a power of ten apart: as few as possible,
    but at least `least`.
    """
    if not high > low:
        return [low]
    power = 10.0 ** math.ceil(math.log10(high - low))
    for apart in (m * power / 10**i for i in range(4) for m in (1, 0.5, 0.2)):
        first, last = math.ceil(low / apart - 1e-9), math.floor(high / apart + 1e-9)
        if last - first + 1 >= least:
            return [
                round(i * apart, 12) if apart > 1e-9 else i * apart for i in range(first, last + 1)
            ]
    return [low, high]


def log_ticks(low: float, high: float) -> list[float]:
    """Numbers within [low, high] for a logarithmic scale: powers of ten, thinned where there are
    more than six; with fewer than three of them also 2 and 5 times a power.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = range(first, last + 1)
    tens = [10.0**p for p in powers if low <= 10.0**p <= high]
    if len(tens) >= 3:
        return tens[:: -(-len(tens) // 6)]
    steps = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    return [s for s in steps if low <= s <= high] or [low, high]


def padded(low: float, high: float) -> tuple[float, float]:
    """A range with some room around its values: a tenth of the value around a single one, and
    0 to 1 around zero.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = abs(low) * 0.1
        return (low - room, high + room) if room else (0.0, 1.0)
    room = (high - low) * 0.06
    # A quantity that starts at zero keeps zero as its lower edge.
    return (0.0 if low == 0 else low - room), high + room


def short(value: float) -> str:
    """A number in few characters: 12.5k, 0.123, 3e-5."""
    size = abs(value)
    if size < 1e-12:
        return "0"
    if size >= 1e4:
        for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if size >= unit:
                return f"{value / unit:.3g}{name}"
    if size >= 1e-3:
        return f"{value:.4g}" if size >= 1000 else f"{value:.3g}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def nice_top(value: float) -> float:
    """The upper edge of a scale of shares that starts at zero."""
    return next(
        (
            top
            for top in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
            if value <= top * 0.97
        ),
        1.0,
    )
