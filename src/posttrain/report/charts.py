"""Charts as SVG text: learning curves and intervals. Colours come from CSS variables, so that they follow the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

MAX_POINTS = 300
Point = tuple[float, float]


def finite_points(steps: Sequence[Any], values: Sequence[Any]) -> list[Point]:
    """Pairs whose value is a finite number."""
    pairs = zip(steps, values, strict=True)
    return [(float(s), float(v)) for s, v in pairs if isinstance(v, int | float) and math.isfinite(v)]


def downsample(points: list[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` points: means of equal stretches, the last point kept."""
    if len(points) <= limit:
        return points
    out = []
    for i in range(limit - 1):
        part = points[i * (len(points) - 1) // (limit - 1) : (i + 1) * (len(points) - 1) // (limit - 1)]
        out.append((part[-1][0], sum(v for _, v in part) / len(part)))
    return [*out, points[-1]]


def smooth(points: list[Point], share: float = 0.06) -> list[Point]:
    """Exponential moving average over about `share` of the points, corrected for its start."""
    keep = 1 - 1 / max(share * len(points), 1)
    total = weight = 0.0
    out = []
    for step, value in points:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        out.append((step, total / weight))
    return out


def short(value: float) -> str:
    """A number in few characters."""
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:.3g}"
    return f"{value:.1e}" if abs(value) < 1e-2 else f"{value:,.0f}"


def curve(title: str, points: list[Point], band: list[tuple[float, float, float]] | None = None) -> str:
    """A small line chart: the raw values thin, their moving average bold; optionally a band (step, low, high)."""
    width, height, left, right, top, bottom = 320, 150, 46, 10, 10, 22
    points = downsample(points)
    band = band or []
    values = [v for _, v in points] + [x for _, low, high in band for x in (low, high)]
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1) * 0.1, high + (abs(high) or 1) * 0.1
    first, last = points[0][0], points[-1][0]

    def place(step: float, value: float) -> str:
        x = left + (step - first) / ((last - first) or 1) * (width - left - right)
        y = top + (high - value) / (high - low) * (height - top - bottom)
        return f"{x:.1f},{y:.1f}"

    shapes = []
    for fraction in (0, 0.5, 1):
        value = low + (high - low) * fraction
        y = top + (1 - fraction) * (height - top - bottom)
        shapes.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(f'<text class="tick" x="{left - 5}" y="{y + 3:.1f}" text-anchor="end">{short(value)}</text>')
    for step, anchor, edge_x in ((first, "start", left), (last, "end", width - right)):
        shapes.append(f'<text class="tick" x="{edge_x}" y="{height - 6}" text-anchor="{anchor}">{step:.0f}</text>')
    if len(band) > 1:
        edge = [place(s, hi) for s, _, hi in band] + [place(s, lo) for s, lo, _ in reversed(band)]
        shapes.append(f'<polygon class="band" points="{" ".join(edge)}"/>')
    if len(points) == 1:
        dot_x, dot_y = place(*points[0]).split(",")
        shapes.append(f'<circle class="dot" cx="{dot_x}" cy="{dot_y}" r="3.5"/>')
    else:
        shapes.append(f'<polyline class="raw" points="{" ".join(place(*p) for p in points)}"/>')
        shapes.append(f'<polyline class="smooth" points="{" ".join(place(*p) for p in smooth(points))}"/>')
    data = ";".join(f"{s:.0f},{v:.6g}" for s, v in points)
    label = f"{title}: from {short(points[0][1])} to {short(points[-1][1])} over steps {first:.0f} to {last:.0f}"
    return (
        f'<figure class="chart"><figcaption>{escape(title)}<output></output></figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" data-points="{data}" '
        f'data-box="{left},{width - right},{top},{height - bottom}" data-range="{low:.6g},{high:.6g}">{"".join(shapes)}'
        '<line class="cursor" y1="10" y2="128" hidden=""/></svg></figure>'
    )


def intervals(rows: Sequence[dict[str, Any]], *, standalone: bool = False) -> str:
    """A dot with its whiskers for each stage, on one scale from 0 to 100 %.

    Args:
        rows: of summary.json. standalone: colours that are readable on white and on black pages, for a file of its own.
    """
    width, line, left, right, top = 640, 34, 190, 60, 8
    height = top + line * len(rows) + 26
    shapes = []

    def x(share: float) -> float:
        return left + share * (width - left - right)

    for share in (0, 0.25, 0.5, 0.75, 1):
        shapes.append(f'<line class="grid" x1="{x(share):.1f}" x2="{x(share):.1f}" y1="{top}" y2="{height - 22}"/>')
        shapes.append(f'<text class="tick" x="{x(share):.1f}" y="{height - 7}" text-anchor="middle">{share:.0%}</text>')
    for i, row in enumerate(rows):
        y = top + line * (i + 0.5)
        low, mid, high = x(row["low"]), x(row["accuracy"]), x(row["high"])
        shapes.append(f'<text class="name" x="{left - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(row["stage"])}</text>')
        shapes.append(f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(f'<circle class="dot" cx="{mid:.1f}" cy="{y:.1f}" r="5"/>')
        shapes.append(f'<text class="value" x="{high + 9:.1f}" y="{y + 4:.1f}">{row["accuracy"]:.1%}</text>')
    style = _STANDALONE if standalone else ""
    space = ' xmlns="http://www.w3.org/2000/svg"' if standalone else ""
    label = "; ".join(f"{r['stage']} {r['accuracy']:.1%}" for r in rows)
    return (
        f'<svg{space} class="intervals" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        f'aria-label="Accuracy with 95 % intervals: {escape(label)}">{style}{"".join(shapes)}</svg>'
    )


# Mid greys and a mid blue keep enough contrast on both of GitHub's themes; a picture cannot ask which one is on.
_STANDALONE = (
    "<style>text{font:13px system-ui,sans-serif;fill:#7d8590}.value,.name{fill:#6e7781;font-weight:600}"
    ".grid{stroke:#8b949e;stroke-opacity:.3}.whisker{stroke:#2f81f7;stroke-width:3;stroke-linecap:round}"
    ".dot{fill:#2f81f7}</style>"
)
