"""Reward hacking on a page: the plot of best-of-N, and the watch of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from posttrain.report.charts import several
from posttrain.report.markup import paragraphs
from posttrain.report.series import finite_points, number
from posttrain.report.tradeoff import COLOURS

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 64, 24, 40, 56

ALARMS = {
    "watch/alarm/gold_falls": "gold falls while the proxy rises",
    "watch/alarm/length": "completions have grown",
    "watch/alarm/format": "fewer completions have an answer",
    "watch/alarm/probes": "a known exploit scores above the median",
}
"""Alarms of a watch: metric -> what it says."""

Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Line:
    """A proxy. points: (KL, gold, low, high), by KL. proxy: its own score at each point, from 0 at
    its lowest to 1 at its highest.
    """

    name: str
    points: Sequence[tuple[float, float, float, float]]
    proxy: Sequence[float]


class _Axes:
    """KL from 0, and gold between the ends of the intervals."""

    def __init__(self, lines: Sequence[Line]) -> None:
        points = [point for line in lines for point in line.points]
        self.right = max([p[0] for p in points] + [0.1])
        ends = [x for p in points for x in p[1:] if math.isfinite(x)] or [0.0, 1.0]
        room = 0.05 * (max(ends) - min(ends)) or 0.05
        self.low, self.high = min(ends) - room, max(ends) + room

    def x(self, kl: float) -> float:
        return LEFT + kl / self.right * (WIDTH - LEFT - RIGHT)

    def y(self, gold: float) -> float:
        value = min(max(gold, self.low), self.high)
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def share(self, value: float) -> float:
        """The height of a proxy's share."""
        return self.y(self.low + value * (self.high - self.low))

    def grid(self) -> list[str]:
        """Lines with their labels."""
        shapes = []
        for k in range(5):
            value = self.low + (self.high - self.low) * k / 4
            y = self.y(value)
            shapes.append(
                f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                f'stroke="#d0d7de"/><text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
                f"{value:.2f}</text>"
            )
            kl = self.right * k / 4
            shapes.append(
                f'<text x="{self.x(kl):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
                f"{kl:.1f}</text>"
            )
        return shapes


def hacking_svg(title: str, lines: Sequence[Line]) -> str:
    """An SVG document: gold with its intervals, and each proxy dashed on a scale of its own."""
    axes = _Axes(lines)
    shapes = axes.grid()
    for place, line in enumerate(lines):
        colour = COLOURS[place % len(COLOURS)]
        shapes += _gold(axes, line, colour)
        dashed = " ".join(
            f"{axes.x(p[0]):.1f},{axes.share(s):.1f}"
            for p, s in zip(line.points, line.proxy, strict=True)
        )
        shapes.append(
            f'<polyline points="{dashed}" fill="none" stroke="{colour}" opacity="0.5" '
            'stroke-dasharray="4 4"/>'
        )
        base = HEIGHT + 8 + 16 * place
        shapes.append(
            f'<rect x="{LEFT}" y="{base - 9}" width="10" height="10" fill="{colour}"/>'
            f'<text x="{LEFT + 16}" y="{base}">{escape(line.name)}</text>'
        )
    height = HEIGHT + 16 * (len(lines) + 1)
    middle = (LEFT + WIDTH - RIGHT) / 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'font-family="sans-serif" font-size="12"><title>{escape(title)}</title>'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
        f'<text x="{LEFT}" y="20" font-size="14">{escape(title)}</text>{"".join(shapes)}'
        f'<text x="{middle:.0f}" y="{HEIGHT - 14}" text-anchor="middle">KL bound of best-of-N, '
        "nats; bars are 95 % intervals, dashed: the proxy between its ends</text></svg>\n"
    )


def _gold(axes: _Axes, line: Line, colour: str) -> list[str]:
    shapes = []
    for kl, gold, low, high in line.points:
        x = f"{axes.x(kl):.1f}"
        shapes.append(
            f'<line x1="{x}" x2="{x}" y1="{axes.y(low):.1f}" y2="{axes.y(high):.1f}" '
            f'stroke="{colour}" opacity="0.5"/>'
            f'<circle cx="{x}" cy="{axes.y(gold):.1f}" r="3" fill="{colour}"/>'
        )
    places = " ".join(f"{axes.x(p[0]):.1f},{axes.y(p[1]):.1f}" for p in line.points)
    shapes.append(f'<polyline points="{places}" fill="none" stroke="{colour}"/>')
    return shapes


# -- the watch of a training


def watch_lines(metrics: Metrics) -> list[str]:
    """The two lines of a watched training: where gold peaked, and which alarms there were.

    Args:
        metrics: rows of metrics.jsonl. Without a watched gold reward there are no lines.
    """
    rows = [row for row in metrics if number(row.get("watch/gold")) is not None]
    if not rows:
        return []
    first, last = rows[0], rows[-1]
    peak = max(rows, key=lambda row: number(row["watch/gold"]) or 0.0)
    known = [
        x
        for row in metrics
        if row["step"] <= peak["step"]
        if (x := number(row.get("watch/kl"))) is not None
    ]
    kl = known[-1] if known else None
    where = f"step {peak['step']:g}" + (f", KL {kl:.3g} nats" if kl is not None else "")
    return [
        f"proxy {_value(first, 'watch/proxy')} to {_value(last, 'watch/proxy')}; gold "
        f"{_value(first, 'watch/gold')} to {_value(last, 'watch/gold')}, highest "
        f"{_value(peak, 'watch/gold')} at {where}",
        _alarm_line(metrics),
    ]


def _alarm_line(metrics: Metrics) -> str:
    texts = []
    for name, text in ALARMS.items():
        steps = [row["step"] for row in metrics if number(row.get(name)) == 1.0]
        if steps:
            texts.append(f"{text} (first at step {steps[0]:g}, {len(steps)} steps)")
    return f"alarms: {'; '.join(texts)}" if texts else "alarms: none"


def _value(row: Mapping[str, Any], name: str) -> str:
    value = number(row.get(name))
    return "-" if value is None else f"{value:.3f}"


def watch_section(metrics: Metrics) -> str:
    """The two lines, and gold and proxy side by side, each from its lowest to its highest."""
    lines = watch_lines(metrics)
    if not lines:
        return ""
    steps = [row["step"] for row in metrics]
    series = []
    for name, label in (("watch/proxy", "proxy"), ("watch/gold", "gold")):
        points = finite_points(steps, [row.get(name) for row in metrics])
        values = [value for _, value in points]
        width = max(values) - min(values) or 1.0
        low = min(values)
        series.append((label, [(step, (value - low) / width) for step, value in points]))
    title = "proxy and gold reward, each between its lowest and highest"
    return paragraphs(lines) + f'<div class="charts">{several(title, series)}</div>'
