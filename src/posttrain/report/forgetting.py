"""The forgetting ledger on a page, and the plot of new against old ability of several runs."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from posttrain.files import write_text_whole
from posttrain.report.markup import Row, paragraphs, table
from posttrain.report.tradeoff import COLOURS

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 400, 64, 24, 40, 56
_MARGIN = 0.05


Point = tuple[float, float]
"""Accuracy on the new task, and mean accuracy on the old ones."""


def ledger(values: Mapping[str, Any]) -> str:
    """The two lines, and a table of all suites, from what forgetting.json holds."""
    rows = [_row(c, c["difference"]["p_value"], "new: ") for c in values["new"]]
    rows += [_row(c, p) for c, p in zip(values["old"], values["p_values"], strict=True)]
    head = ["suite", "before", "after", "difference", "95% interval", "lost", "gained", "p"]
    return paragraphs(values["lines"]) + table(head, rows, "Old abilities before and after")


def _row(change: Mapping[str, Any], p: float, prefix: str = "") -> Row:
    d = change["difference"]
    before, after = change["before"], change["after"]
    if change["unit"] == "accuracy":
        numbers = [f"{before:.1%}", f"{after:.1%}", f"{d['estimate']:+.1%}"]
        ends = f"{d['low']:+.1%} to {d['high']:+.1%}"
    else:
        numbers = [f"{before:.3f} nats", f"{after:.3f} nats", f"{d['estimate']:+.3f}"]
        ends = f"{d['low']:+.3f} to {d['high']:+.3f}"
    counts = ["" if change[n] is None else str(change[n]) for n in ("lost", "gained")]
    return Row(prefix + change["name"], [*numbers, ends, *counts, f"{p:.2g}"])


def pareto_front(points: Mapping[str, Point]) -> list[str]:
    """Names of the points that no other beats in both coordinates, by the first."""
    front = []
    for name, (x, y) in points.items():
        beaten = any(
            (a >= x and b >= y) and (a > x or b > y)
            for other, (a, b) in points.items()
            if other != name
        )
        if not beaten:
            front.append(name)
    return sorted(front, key=lambda name: points[name])


def write_pareto(abilities: Mapping[str, tuple[Point, Point]], folder: Path) -> Path:
    """Write pareto.svg: accuracy on the new task against mean accuracy on the old ones.

    Args:
        abilities: before and after, by the name of the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "pareto.svg"
    starts = {name: before for name, (before, _) in abilities.items()}
    points = {name: after for name, (_, after) in abilities.items()}
    write_text_whole(file, pareto_svg(points, starts))
    return file


class _Scale:
    """A linear axis over values, with a margin."""

    def __init__(self, values: list[float], first: float, last: float) -> None:
        self.low = max(0.0, min(values) - _MARGIN)
        self.high = min(1.0, max(values) + _MARGIN)
        self.first, self.last = first, last

    def at(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self) -> list[float]:
        return [self.low + (self.high - self.low) * k / 4 for k in range(5)]


def pareto_svg(points: Mapping[str, Point], starts: Mapping[str, Point]) -> str:
    """An SVG document: each run as an arrow from its start, the Pareto front dashed.

    Args:
        points, starts: (accuracy on the new task, mean accuracy on the old tasks) by run.
    """
    everything = [*points.values(), *starts.values()]
    x = _Scale([p[0] for p in everything], LEFT, WIDTH - RIGHT)
    y = _Scale([p[1] for p in everything], HEIGHT - BOTTOM, TOP)
    shapes = [
        f'<text x="{x.at(t):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{t:.0%}</text>'
        for t in x.ticks()
    ]
    for t in y.ticks():
        shapes.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.at(t):.1f}" y2="{y.at(t):.1f}" '
            f'stroke="#d0d7de"/><text x="{LEFT - 6}" y="{y.at(t) + 4:.1f}" text-anchor="end">'
            f"{t:.0%}</text>"
        )
    best = [points[name] for name in pareto_front(points)]
    front = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in best)
    shapes.append(
        f'<polyline points="{front}" fill="none" stroke="#57606a" stroke-dasharray="4 4"/>'
    )
    for number, (name, (a, b)) in enumerate(points.items()):
        colour, (c, d) = COLOURS[number % len(COLOURS)], starts[name]
        base = HEIGHT + 8 + 16 * number
        shapes.append(
            f'<line x1="{x.at(c):.1f}" y1="{y.at(d):.1f}" x2="{x.at(a):.1f}" y2="{y.at(b):.1f}" '
            f'stroke="{colour}" opacity="0.4"/>'
            f'<circle cx="{x.at(c):.1f}" cy="{y.at(d):.1f}" r="3" fill="white" stroke="{colour}"/>'
            f'<circle cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="4" fill="{colour}"/>'
            f'<rect x="{LEFT}" y="{base - 9}" width="10" height="10" fill="{colour}"/>'
            f'<text x="{LEFT + 16}" y="{base}">{escape(name)}: new {a:.1%}, old {b:.1%}</text>'
        )
    height = HEIGHT + 16 * (len(points) + 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="12"><title>New against old ability</title>'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
        f'<text x="{LEFT}" y="20" font-size="14">New against old ability; open circles are the '
        f"start, the front is dashed</text>{''.join(shapes)}"
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 14}" text-anchor="middle">'
        "accuracy on the new task (across), mean over old tasks (up)</text></svg>\n"
    )
