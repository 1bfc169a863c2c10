"""Plots of forecasts: lines over two axes, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 360, 56, 16, 32, 44
COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#8250df", "#bc4c00", "#57606a")


@dataclass(frozen=True, slots=True)
class Line:
    """name: in the legend. points: (x, y), finite. dashed: for what is only to compare with."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


def lines_svg(
    title: str, x_label: str, y_label: str, lines: Sequence[Line], *, log_x: bool = False
) -> str:
    """An SVG document with all lines on the same axes. log_x: a logarithmic axis, x above 0."""
    points = [p for line in lines for p in line.points]
    xs = [_place(x, log_x) for x, _ in points]
    low_x, high_x = _bounds(xs)
    low_y, high_y = _bounds([y for _, y in points])

    def at(x: float, y: float) -> str:
        right = LEFT + (_place(x, log_x) - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)
        down = TOP + (high_y - y) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM)
        return f"{right:.1f},{down:.1f}"

    shapes = []
    for k in range(5):
        value = low_y + (high_y - low_y) * k / 4
        y = TOP + (high_y - value) / (high_y - low_y) * (HEIGHT - TOP - BOTTOM)
        place = low_x + (high_x - low_x) * k / 4
        x = LEFT + (WIDTH - LEFT - RIGHT) * k / 4
        shapes.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d0d7de"/>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.2g}</text>'
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{math.exp(place) if log_x else place:.3g}</text>"
        )
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        dashes = ' stroke-dasharray="4 4"' if line.dashed else ""
        path = " ".join(at(x, y) for x, y in line.points)
        base = HEIGHT + 8 + 16 * number
        shapes.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
            f'<rect x="{LEFT}" y="{base - 9}" width="10" height="10" fill="{colour}"/>'
            f'<text x="{LEFT + 16}" y="{base}">{escape(line.name)}</text>'
        )
    height = HEIGHT + 16 * (len(lines) + 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="sans-serif" font-size="12"><title>{escape(title)}</title>'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>{"".join(shapes)}'
        f'<text x="{WIDTH / 2:.0f}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_label)}; '
        f"upwards: {escape(y_label)}</text></svg>\n"
    )


def _place(x: float, log_x: bool) -> float:
    return math.log(x) if log_x else x


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
