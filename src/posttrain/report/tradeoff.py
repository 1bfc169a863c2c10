"""The plot of accuracy against tokens, as an SVG file that stands alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 56, 16, 36, 48
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#57606a", "#bf3989", "#0a7ea4")


@dataclass(frozen=True, slots=True)
class Line:
    """A strategy. points: (tokens, accuracy, low, high), by tokens."""

    name: str
    points: Sequence[tuple[float, float, float, float]]


class _Axes:
    """Tokens on a logarithmic axis, accuracy from 0 to the highest interval's end."""

    def __init__(self, tokens: Sequence[float], top: float) -> None:
        self.first = math.log10(max(min(tokens), 1.0))
        self.last = max(math.log10(max(max(tokens), 1.0)), self.first + 0.1)
        self.top = min(1.0, math.ceil(max(top, 0.05) * 10) / 10)

    def x(self, tokens: float) -> float:
        share = (math.log10(max(tokens, 1.0)) - self.first) / (self.last - self.first)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, accuracy: float) -> float:
        return TOP + (1 - accuracy / self.top) * (HEIGHT - TOP - BOTTOM)

    def grid(self) -> list[str]:
        """Lines with their labels."""
        shapes = []
        for step in range(6):
            value = self.top * step / 5
            y = self.y(value)
            shapes.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                'stroke="#d0d7de"/>'
                f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.0%}</text>'
            )
        for power in range(math.floor(self.first), math.ceil(self.last) + 1):
            for factor in (1, 2, 5):
                tokens = factor * 10.0**power
                if self.first - 1e-9 <= math.log10(tokens) <= self.last + 1e-9:
                    shapes.append(
                        f'<text x="{self.x(tokens):.1f}" y="{HEIGHT - BOTTOM + 18}" '
                        f'text-anchor="middle">{tokens:,.0f}</text>'
                    )
        return shapes


def tradeoff_svg(
    title: str, lines: Sequence[Line], front: Sequence[tuple[float, float]] = ()
) -> str:
    """An SVG document: each line with its intervals, and the front dashed behind them.

    front: (tokens, accuracy), by tokens.
    """
    points = [point for line in lines for point in line.points]
    axes = _Axes([p[0] for p in points] or [1.0], max((p[3] for p in points), default=1.0))
    shapes = axes.grid()
    if front:
        places = " ".join(f"{axes.x(t):.1f},{axes.y(a):.1f}" for t, a in front)
        shapes.append(
            f'<polyline points="{places}" fill="none" stroke="#57606a" stroke-dasharray="4 4"/>'
        )
    for number, line in enumerate(lines):
        shapes += _line(axes, line, COLOURS[number % len(COLOURS)], number)
    middle = (LEFT + WIDTH - RIGHT) / 2
    height = HEIGHT + 16 * math.ceil(len(lines) / 2)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="sans-serif" font-size="12"><title>{escape(title)}</title>'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>{"".join(shapes)}'
        f'<text x="{middle:.0f}" y="{HEIGHT - 12}" text-anchor="middle">tokens per problem, '
        "logarithmic; bars are 95 % intervals</text></svg>\n"
    )


def _line(axes: _Axes, line: Line, colour: str, number: int) -> list[str]:
    shapes = []
    for tokens, accuracy, low, high in line.points:
        x = f"{axes.x(tokens):.1f}"
        shapes.append(
            f'<line x1="{x}" x2="{x}" y1="{axes.y(low):.1f}" y2="{axes.y(high):.1f}" '
            f'stroke="{colour}" opacity="0.5"/>'
            f'<circle cx="{x}" cy="{axes.y(accuracy):.1f}" r="3" fill="{colour}"/>'
        )
    places = " ".join(f"{axes.x(t):.1f},{axes.y(a):.1f}" for t, a, _, _ in line.points)
    shapes.append(f'<polyline points="{places}" fill="none" stroke="{colour}"/>')
    left, base = LEFT + (number % 2) * 290, HEIGHT + 8 + 16 * (number // 2)
    name = line.name if len(line.name) <= 40 else f"{line.name[:37]}..."
    shapes.append(
        f'<rect x="{left}" y="{base - 9}" width="10" height="10" fill="{colour}"/>'
        f'<text x="{left + 16}" y="{base}">{escape(name)}</text>'
    )
    return shapes
