"""Charts as SVG text. Colours come from CSS variables, so that a chart follows its page.

A chart of positive numbers that span a factor of three or more holds two drawings, one with a
linear and one with a logarithmic vertical axis; the page's switch shows one of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from html import escape

from posttrain.report.records import Interval
from posttrain.report.series import (
    Point,
    log_ticks,
    nice_top,
    padded,
    short,
    smooth,
    spread,
    thin,
    ticks,
)

Band = list[tuple[float, float, float]]
"""(step, low, high) for each step."""

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340, 168, 48, 12, 10, 24
WIDE = 430
MAX_MARKS = 40
NUM_COLOURS = 6
_LEAST_FOR_LOG = 3.0


class _Frame:
    """The scales of a chart, its grid and its labels.

    Args:
        xs: all steps. low, high: the edges of the vertical axis. powers_of_two: the horizontal
        axis is logarithmic (numbers of samples). log: the vertical axis is.
    """

    def __init__(
        self,
        xs: Sequence[float],
        low: float,
        high: float,
        *,
        powers_of_two: bool = False,
        log: bool = False,
        width: int = WIDTH,
    ) -> None:
        self._to_x: Callable[[float], float] = math.log2 if powers_of_two else float
        self._to_y: Callable[[float], float] = math.log10 if log else float
        self.low, self.high, self.log, self.width = low, high, log, width
        self.powers_of_two = powers_of_two
        self.first, self.last = self._to_x(min(xs)), self._to_x(max(xs))

    def x(self, value: float) -> float:
        span = self.last - self.first
        share = (self._to_x(value) - self.first) / span if span else 0.5
        return LEFT + share * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        # The low edge of a band may lie below zero, where a logarithm is not defined.
        inside = max(value, self.low) if self.log else value
        low, high = self._to_y(self.low), self._to_y(self.high)
        return TOP + (high - self._to_y(inside)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Sequence[Point], name: str) -> str:
        places = " ".join(f"{self.x(s):.1f},{self.y(v):.1f}" for s, v in points)
        return f'<polyline class="{name}" points="{places}"/>'

    def dot(self, point: Point, name: str, radius: float) -> str:
        x, y = self.x(point[0]), self.y(point[1])
        return f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>'

    def grid(self, x_ticks: Sequence[float], label: Callable[[float], str]) -> str:
        """Horizontal lines with their values, and the steps along the bottom."""
        shapes = []
        values = log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high)
        for value in values:
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


def _drawings(
    xs: Sequence[float], values: Sequence[float], draw: Callable[[_Frame], str]
) -> tuple[_Frame, str]:
    """The chart with a linear axis and, where all values are positive and far enough apart, with
    a logarithmic one.
    """
    frame = _Frame(xs, *padded(min(values), max(values)))
    linear = draw(frame)
    if min(values) <= 0 or max(values) < _LEAST_FOR_LOG * min(values):
        return frame, linear
    log = draw(_Frame(xs, min(values) / 1.1, max(values) * 1.1, log=True))
    return frame, f'<g class="linear">{linear}</g><g class="log">{log}</g>'


def _figure(
    title: str,
    frame: _Frame,
    shapes: str,
    series: list[tuple[str, list[Point]]],
    spoken: str,
    unit: str,
    colours: Sequence[str] = (),
) -> str:
    """A chart with its caption. series: the numbers for the script's read-out. spoken: the text
    for a screen reader. colours: of the legend's entries; without any there is no legend.
    """
    data = [[name, [[s, float(f"{v:.5g}")] for s, v in points]] for name, points in series]
    packed = escape(json.dumps(data, separators=(",", ":")))
    last = "" if len(series) > 1 else f"last {value_text(series[0][1][-1][1], unit)}"
    items = "".join(
        f'<li class="{colour}">{escape(name)}</li>'
        for colour, (name, _) in zip(colours, series, strict=False)
    )
    legend = f'<ul class="legend">{items}</ul>' if items else ""
    both = " both" if '<g class="log">' in shapes else ""
    return (
        f'<figure class="chart{both}"><figcaption>{escape(title)}<output '
        f'data-rest="{escape(last)}">{escape(last)}</output>'
        f'</figcaption><svg viewBox="0 0 {frame.width} {HEIGHT}" role="img" tabindex="0" '
        f'aria-label="{escape(spoken)}" '
        f'data-series="{packed}" data-log="{int(frame.powers_of_two)}" data-unit="{unit}" '
        f'data-box="{LEFT},{frame.width - RIGHT}">{shapes}'
        f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
        f'visibility="hidden"/></svg>{legend}</figure>'
    )


def value_text(value: float, unit: str) -> str:
    """A value with its unit: "%" shows shares in percent."""
    return f"{100 * value:.3g}%" if unit == "%" else short(value)


def _step_ticks(steps: Sequence[float]) -> list[float]:
    return [t for t in ticks(min(steps), max(steps)) if t == int(t)]


def curve(
    title: str,
    points: list[Point],
    *,
    band: Band | None = None,
    gaps: Sequence[float] = (),
    unit: str = "",
    smoothed: bool = True,
    limit: int = 240,
) -> str:
    """A learning curve: the raw values thin, their moving average bold.

    Args:
        points: (step, value), at least one. band: drawn behind the line. gaps: steps whose value
        was not a number; they are marked at the bottom. unit: "%" for shares.
        smoothed: False for what has no noise (a schedule). limit: points that are drawn.
    """
    band = spread(band or [], 120)
    shown = thin(points, limit)
    steps = [s for s, _ in points] + list(gaps)

    def draw(frame: _Frame) -> str:
        shapes = [frame.grid(_step_ticks(steps), lambda v: value_text(v, unit))]
        if len(band) > 1:
            edge = [(s, hi) for s, _, hi in band] + [(s, lo) for s, lo, _ in reversed(band)]
            shapes.append(frame.path(edge, "band"))
        if len(shown) == 1:
            shapes.append(frame.dot(shown[0], "dot", 4))
        elif not smoothed:
            shapes.append(frame.path(shown, "smooth always"))
        else:
            average = spread(smooth(points), len(shown))
            shapes += [frame.path(shown, "raw"), frame.path(average, "smooth")]
        for step in spread(gaps, MAX_MARKS):
            x = f"{frame.x(step):.1f}"
            shapes.append(f'<line class="gap" x1="{x}" x2="{x}" y1="138" y2="144"/>')
        return "".join(shapes)

    values = [v for _, v in shown] + [edge for _, *edges in band for edge in edges]
    frame, shapes = _drawings(steps, values, draw)
    spoken = (
        f"{title}: from {value_text(points[0][1], unit)} to {value_text(points[-1][1], unit)}, "
        f"steps {points[0][0]:.0f} to {points[-1][0]:.0f}"
    )
    return _figure(title, frame, shapes, [(title, shown)], spoken, unit)


def several(
    title: str,
    series: list[tuple[str, list[Point]]],
    *,
    unit: str = "",
    colours: Sequence[int] | None = None,
) -> str:
    """Curves of one quantity for several names, smoothed, with a legend.

    Args:
        series: name and (step, value) points, at least one. colours: a number for each name, so
        that a name has one colour on the whole page; left out, their order.
    """
    classes = _classes(colours, len(series))
    steps = [s for _, points in series for s, _ in points]

    def draw(frame: _Frame) -> str:
        shapes = [frame.grid(_step_ticks(steps), lambda v: value_text(v, unit))]
        for colour, (_, points) in zip(classes, series, strict=True):
            if len(points) == 1:
                shapes.append(frame.dot(points[0], f"dot {colour}", 4))
            shapes.append(frame.path(thin(points, 160), f"raw {colour}"))
            shapes.append(frame.path(spread(smooth(points), 120), f"smooth {colour}"))
        return "".join(shapes)

    frame, shapes = _drawings(steps, [v for _, points in series for _, v in points], draw)
    spoken = f"{title}: " + "; ".join(
        f"{name} from {value_text(p[0][1], unit)} to {value_text(p[-1][1], unit)}"
        for name, p in series
    )
    read_out = [(name, thin(points, 120)) for name, points in series]
    return _figure(title, frame, shapes, read_out, spoken, unit, classes)


def _classes(colours: Sequence[int] | None, count: int) -> list[str]:
    """The CSS class of each name's colour."""
    return [f"s{i % NUM_COLOURS}" for i in (range(count) if colours is None else colours)]


def by_samples(
    title: str,
    stages: list[tuple[str, dict[int, Interval]]],
    *,
    unit: str = "%",
    colours: Sequence[int] | None = None,
) -> str:
    """A measure against the number of samples (pass@k, maj@k), on a scale of powers of two, with
    its intervals. colours: as in `several`.
    """
    classes = _classes(colours, len(stages))
    ks = [float(k) for k in sorted({k for _, values in stages for k in values})]
    lows, highs = zip(*((v.low, v.high) for _, values in stages for v in values.values()))
    if unit == "%":
        edges = (0.0, nice_top(max(highs)))
    else:
        edges = padded(min(lows), max(highs))
    frame = _Frame(ks, *edges, powers_of_two=True, width=WIDE)
    shapes = [frame.grid(ks, lambda v: value_text(v, unit))]
    series = []
    for colour, (name, values) in zip(classes, stages, strict=True):
        for k, v in values.items():
            x = f"{frame.x(k):.1f}"
            ends = f'y1="{frame.y(v.low):.1f}" y2="{frame.y(v.high):.1f}"'
            shapes.append(f'<line class="range {colour}" x1="{x}" x2="{x}" {ends}/>')
            shapes.append(frame.dot((k, v.estimate), f"dot {colour}", 2.6))
        points = [(float(k), v.estimate) for k, v in values.items()]
        shapes.append(frame.path(points, f"smooth always {colour}"))
        series.append((name, points))
    spoken = f"{title}: " + "; ".join(
        f"{name} from {value_text(p[0][1], unit)} with {p[0][0]:.0f} to "
        f"{value_text(p[-1][1], unit)} with {p[-1][0]:.0f} samples"
        for name, p in series
    )
    return _figure(title, frame, "".join(shapes), series, spoken, unit, classes)
