"""Curves of active learning as a picture: score against labels, with bands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from posttrain.report.series import padded, ticks
from posttrain.report.tradeoff import COLOURS

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 64, 24, 40, 56


@dataclass(frozen=True, slots=True)
class Line:
    """A selector. points: (labels, score, low, high); bounds that are not finite are not drawn."""

    name: str
    points: Sequence[tuple[float, float, float, float]]


class _Axes:
    def __init__(self, lines: Sequence[Line]) -> None:
        points = [point for line in lines for point in line.points]
        labels = [point[0] for point in points] or [0.0, 1.0]
        self.first, self.last = min(labels), max(labels)
        heights = [y for point in points for y in point[1:] if math.isfinite(y)] or [0.0, 1.0]
        self.low, self.high = padded(max(min(heights), 0.0), min(max(heights), 1.0))

    def x(self, labels: float) -> float:
        share = (labels - self.first) / ((self.last - self.first) or 1.0)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, score: float) -> float:
        inside = min(max(score, self.low), self.high)
        return TOP + (self.high - inside) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def grid(self) -> list[str]:
        shapes = []
        for value in ticks(self.low, self.high):
            y = self.y(value)
            shapes.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                f'stroke="#d0d7de"/><text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
                f"{value:.0%}</text>"
            )
        for value in ticks(self.first, self.last):
            shapes.append(
                f'<text x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
                f"{value:g}</text>"
            )
        return shapes


def learning_curves_svg(title: str, lines: Sequence[Line]) -> str:
    """The picture as SVG text."""
    axes = _Axes(lines)
    shapes = axes.grid()
    for place, line in enumerate(lines):
        colour = COLOURS[place % len(COLOURS)]
        shapes += _band(axes, line, colour)
        path = " ".join(f"{axes.x(p[0]):.1f},{axes.y(p[1]):.1f}" for p in line.points)
        shapes.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        shapes.append(
            f'<text x="{LEFT + 8}" y="{TOP + 16 + 16 * place}" fill="{colour}">'
            f"{escape(line.name)}</text>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>{"".join(shapes)}'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">labels</text></svg>\n'
    )


def _band(axes: _Axes, line: Line, colour: str) -> list[str]:
    """The interval around a line, where it has bounds."""
    points = [p for p in line.points if math.isfinite(p[2]) and math.isfinite(p[3])]
    if len(points) < 2:
        return []
    upper = [f"{axes.x(p[0]):.1f},{axes.y(p[3]):.1f}" for p in points]
    lower = [f"{axes.x(p[0]):.1f},{axes.y(p[2]):.1f}" for p in reversed(points)]
    return [f'<polygon points="{" ".join(upper + lower)}" fill="{colour}" opacity="0.12"/>']
