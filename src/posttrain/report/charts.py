"""Charts as SVG text. Colours come from CSS variables, so that a chart follows the page it
stands in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from html import escape

from posttrain.report.run_folder import Interval, StageRow
from posttrain.report.series import Point, padded, short, smooth, spread, thin, ticks

Band = list[tuple[float, float, float]]
"""(step, low, high) for each step."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340, 168, 48, 12, 10, 24
WIDE = 430
MAX_MARKS = 40
NUM_COLOURS = 6


class _Frame:
    """The scales of a chart, its grid and its labels."""

    def __init__(
        self,
        xs: Sequence[float],
        low: float,
        high: float,
        *,
        log2: bool = False,
        width: int = WIDTH,
    ) -> None:
        self._to_x: Callable[[float], float] = math.log2 if log2 else float
        self.low, self.high, self.log2, self.width = low, high, log2, width
        self.first, self.last = self._to_x(min(xs)), self._to_x(max(xs))

    def x(self, value: float) -> float:
        span = self.last - self.first
        return LEFT + ((self._to_x(value) - self.first) / span if span else 0.5) * (
            self.width - LEFT - RIGHT
        )

    def y(self, value: float) -> float:
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Sequence[Point], name: str) -> str:
        places = " ".join(f"{self.x(s):.1f},{self.y(v):.1f}" for s, v in points)
        return f'<polyline class="{name}" points="{places}"/>'

    def grid(self, x_ticks: Sequence[float], label: Callable[[float], str]) -> str:
        """Horizontal lines with their values, and the steps along the bottom."""
        shapes = []
        for value in ticks(self.low, self.high):
            y = self.y(value)
            shapes.append(
                f'<line class="grid" x1="{LEFT}" x2="{self.width - RIGHT}" y1="{y:.1f}" '
                f'y2="{y:.1f}"/>'
            )
            shapes.append(
                f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label(value)}</text>'
            )
        for value in x_ticks:
            x = self.x(value)
            # A label at the right edge would be cut if it were centred.
            anchor = "end" if x > self.width - RIGHT - 14 else "middle"
            at = min(x, self.width - 2) if anchor == "end" else x
            shapes.append(
                f'<text x="{at:.1f}" y="{HEIGHT - 7}" text-anchor="{anchor}">{short(value)}</text>'
            )
        return "".join(shapes)


def _figure(
    title: str,
    frame: _Frame,
    shapes: str,
    series: list[tuple[str, list[Point]]],
    said: str,
    unit: str,
) -> str:
    """A chart with its caption. `series` go to the script for the read-out; `said` is what a
    screen reader hears.
    """
    data = [[name, [[s, float(f"{v:.5g}")] for s, v in points]] for name, points in series]
    packed = escape(json.dumps(data, separators=(",", ":")))
    last = "" if len(series) > 1 else f"last {said_value(series[0][1][-1][1], unit)}"
    legend = ""
    if len(series) > 1:
        items = "".join(
            f'<li class="s{i % NUM_COLOURS}">{escape(name)}</li>'
            for i, (name, _) in enumerate(series)
        )
        legend = f'<ul class="legend">{items}</ul>'
    return (
        f'<figure class="chart"><figcaption>{escape(title)}<output '
        f'data-rest="{escape(last)}">{escape(last)}</output>'
        f'</figcaption><svg viewBox="0 0 {frame.width} {HEIGHT}" role="img" tabindex="0" '
        f'aria-label="{escape(said)}" '
        f'data-series="{packed}" data-log="{int(frame.log2)}" data-unit="{unit}" '
        f'data-box="{LEFT},{frame.width - RIGHT}">{shapes}'
        f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
        f'visibility="hidden"/></svg>{legend}</figure>'
    )


def said_value(value: float, unit: str) -> str:
    """A value with its unit: "%" shows shares in percent."""
    return f"{100 * value:.3g}%" if unit == "%" else short(value)


def curve(
    title: str,
    points: list[Point],
    *,
    band: Band | None = None,
    gaps: Sequence[float] = (),
    unit: str = "",
    smoothed: bool = True,
) -> str:
    """A learning curve: the raw values thin, their moving average bold.

    Args:
        points: (step, value), at least one. band: drawn behind the line. gaps: steps whose value
        was not a number;
            they are marked at the bottom. unit: "%" for shares. smoothed: False for what has no
            noise (a schedule).
    """
    band = spread(band or [], 120)
    shown = thin(points)
    low, high = padded(
        min([v for _, v in shown] + [b[1] for b in band]),
        max([v for _, v in shown] + [b[2] for b in band]),
    )
    span = [s for s, _ in points] + list(gaps)
    frame = _Frame(span, low, high)
    steps = [t for t in ticks(min(span), max(span)) if t == int(t)]
    shapes = [frame.grid(steps, lambda v: said_value(v, unit))]
    if len(band) > 1:
        edge = [(s, hi) for s, _, hi in band] + [(s, lo) for s, lo, _ in reversed(band)]
        shapes.append(frame.path(edge, "band"))
    if len(shown) == 1:
        shapes.append(
            f'<circle class="dot" cx="{frame.x(shown[0][0]):.1f}" cy="{frame.y(shown[0][1]):.1f}" '
            'r="4"/>'
        )
    elif not smoothed:
        shapes.append(frame.path(shown, "smooth always"))
    else:
        shapes += [
            frame.path(shown, "raw"),
            frame.path(spread(smooth(points), len(shown)), "smooth"),
        ]
    for step in spread(gaps, MAX_MARKS):
        shapes.append(
            f'<line class="gap" x1="{frame.x(step):.1f}" x2="{frame.x(step):.1f}" y1="138" '
            'y2="144"/>'
        )
    said = (
        f"{title}: from {said_value(points[0][1], unit)} to {said_value(points[-1][1], unit)}, "
        f"steps {points[0][0]:.0f} to {points[-1][0]:.0f}"
    )
    return _figure(title, frame, "".join(shapes), [(title, shown)], said, unit)


def several(title: str, series: list[tuple[str, list[Point]]]) -> str:
    """Curves of one quantity for several names, smoothed, with a legend."""
    values = [v for _, points in series for _, v in points]
    frame = _Frame(
        [s for _, points in series for s, _ in points], *padded(min(values), max(values))
    )
    steps = [
        t
        for t in ticks(min(p[0][0] for _, p in series), max(p[-1][0] for _, p in series))
        if t == int(t)
    ]
    shapes = [frame.grid(steps, short)]
    for i, (_, points) in enumerate(series):
        if len(points) == 1:
            x, y = frame.x(points[0][0]), frame.y(points[0][1])
            shapes.append(
                f'<circle class="dot s{i % NUM_COLOURS}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
            )
        shapes.append(frame.path(thin(points), f"raw s{i % NUM_COLOURS}"))
        shapes.append(frame.path(spread(smooth(points), 120), f"smooth s{i % NUM_COLOURS}"))
    said = f"{title}: " + "; ".join(
        f"{name} from {short(p[0][1])} to {short(p[-1][1])}" for name, p in series
    )
    return _figure(
        title, frame, "".join(shapes), [(name, thin(p, 120)) for name, p in series], said, ""
    )


def by_samples(title: str, stages: list[tuple[str, dict[int, Interval]]]) -> str:
    """Accuracy against the number of samples (pass@k, maj@k), on a scale of powers of two, with
    its intervals.
    """
    ks = sorted({k for _, values in stages for k in values})
    high = max(v.high for _, values in stages for v in values.values())
    shown = [float(k) for k in ks]
    frame = _Frame(shown, 0.0, nice_top(high), log2=True, width=WIDE)
    shapes = [frame.grid(shown, lambda v: said_value(v, "%"))]
    for i, (_, values) in enumerate(stages):
        for k, v in values.items():
            x = frame.x(k)
            ends = f'y1="{frame.y(v.low):.1f}" y2="{frame.y(v.high):.1f}"'
            shapes.append(
                f'<line class="range s{i % NUM_COLOURS}" x1="{x:.1f}" x2="{x:.1f}" {ends}/>'
            )
            shapes.append(
                f'<circle class="dot s{i % NUM_COLOURS}" cx="{x:.1f}" '
                f'cy="{frame.y(v.estimate):.1f}" r="2.6"/>'
            )
        points = [(float(k), v.estimate) for k, v in values.items()]
        shapes.append(frame.path(points, f"smooth always s{i % NUM_COLOURS}"))
    series = [
        (name, [(float(k), v.estimate) for k, v in values.items()]) for name, values in stages
    ]
    said = f"{title}: " + "; ".join(
        f"{name} from {p[0][1]:.1%} with {p[0][0]:.0f} to {p[-1][1]:.1%} with {p[-1][0]:.0f} "
        "samples"
        for name, p in series
    )
    return _figure(title, frame, "".join(shapes), series, said, "%")


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


def intervals(rows: Sequence[StageRow]) -> str:
    """A dot with its whiskers for each stage, once for wide and once for narrow screens."""
    return _intervals(rows, 860, stacked=False, name="wide") + _intervals(
        rows, 340, stacked=True, name="narrow"
    )


def picture(title: str, rows: Sequence[StageRow]) -> str:
    """The interval chart as a file of its own.

    It brings its own background, which changes together with its text: readable whatever page it
    stands on.
    """
    return _intervals(rows, 760, stacked=False, name="picture", title=title)


def _intervals(
    rows: Sequence[StageRow], width: int, *, stacked: bool, name: str, title: str = ""
) -> str:
    """Draw it. stacked: the stage's name above its line instead of left of it."""
    edge = 22 if title else 2
    longest = max((len(r.short_label) for r in rows), default=0)
    left = edge + (7 if stacked else 8.0 * longest + 18)
    right, line = 62 + (edge - 2), 50 if stacked else 38
    top = 58 if title else 6
    height = top + line * len(rows) + 28 + (12 if title else 0)
    scale = nice_top(max((r.high for r in rows), default=1.0))
    base = top + line * len(rows) + 4
    shapes = []

    def x(share: float) -> float:
        return left + min(max(share, 0), 1) / scale * (width - left - right)

    for share in ticks(0, scale, 3 if stacked else 4):
        place = f"{x(share):.1f}"
        shapes.append(f'<line class="grid" x1="{place}" x2="{place}" y1="{top}" y2="{base}"/>')
        anchor = "start" if stacked and share == 0 else "middle"
        shapes.append(
            f'<text x="{place}" y="{base + 17}" text-anchor="{anchor}">{100 * share:.3g}%</text>'
        )
    for i, row in enumerate(rows):
        y = top + line * (i + 0.5) + (9 if stacked else 0)
        low, mid, high = x(row.low), x(row.accuracy), x(row.high)
        at = (
            f'x="{left:.0f}" y="{y - 13:.1f}"'
            if stacked
            else f'x="{left - 16:.0f}" y="{y + 5:.1f}" text-anchor="end"'
        )
        shapes.append(f'<text class="name" {at}>{escape(row.short_label)}</text>')
        shapes.append(
            f'<line class="track" x1="{left:.1f}" x2="{mid:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        shapes.append(
            f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        for end in (low, high):
            shapes.append(
                f'<line class="whisker" x1="{end:.1f}" x2="{end:.1f}" y1="{y - 5:.1f}" '
                f'y2="{y + 5:.1f}"/>'
            )
        shapes.append(f'<circle class="dot" cx="{mid:.1f}" cy="{y:.1f}" r="5.5"/>')
        shapes.append(
            f'<text class="value" x="{high + 11:.1f}" y="{y + 5:.1f}">{row.accuracy:.1%}</text>'
        )
    said = "; ".join(f"{r.label} {r.accuracy:.1%}, {r.low:.1%} to {r.high:.1%}" for r in rows)
    head = ""
    if title:
        head = (
            f'{_STANDALONE}<rect class="page" x="1" y="1" width="{width - 2}" '
            f'height="{height - 2}" rx="10"/>'
            f'<text class="title" x="{edge}" y="34">{escape(title)}</text>'
        )
    size = f'width="{width}" height="{height}"' if title else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="intervals {name}" viewBox="0 0 {width} '
        f'{height}" {size} '
        'role="img" aria-label="Accuracy with 95% intervals: '
        f'{escape(said)}">{head}{"".join(shapes)}</svg>'
    )


_STANDALONE = (
    "<style>text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#59636e}"
    ".name,.value{font-size:15px;fill:#1f2328}.value{font-weight:600}.title{font-size:16px;font-weight:600;fill:#1f2328}"
    ".page{fill:#fff;stroke:#d1d9e0}.grid{stroke:#d1d9e0}.track{stroke:#0969da;stroke-opacity:.18;stroke-width:3}"
    ".whisker{stroke:#0969da;stroke-width:2.5;stroke-linecap:round}.dot{fill:#0969da}"
    "@media(prefers-color-scheme:dark){text{fill:#9198a1}.name,.value,.title{fill:#e6edf3}.page{fill:#0d1117;stroke:#30363d}"
    ".grid{stroke:#30363d}.track,.whisker{stroke:#4493f8}.dot{fill:#4493f8}}</style>"
)
