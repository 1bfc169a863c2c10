"""Accuracy with 95 % intervals, a dot with whiskers for each stage, as SVG text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from posttrain.report.records import StageRow
from posttrain.report.series import nice_top, ticks


def intervals(rows: Sequence[StageRow]) -> str:
    """A dot with its whiskers for each stage, once for wide and once for narrow screens."""
    return _intervals(rows, 860, stacked=False, name="wide") + _intervals(
        rows, 340, stacked=True, name="narrow"
    )


def picture(title: str, rows: Sequence[StageRow]) -> str:
    """The interval chart as a separate file.

    It has a background, which changes together with the text, so that it is readable on any page.
    """
    return _intervals(rows, 760, stacked=False, name="picture", title=title)


def _intervals(
    rows: Sequence[StageRow], width: int, *, stacked: bool, name: str, title: str = ""
) -> str:
    """The chart. stacked: a stage's name stands above its line instead of left of it."""
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
        shapes += _stage(row, x, y, left, stacked=stacked)
    spoken = "; ".join(f"{r.label} {r.accuracy:.1%}, {r.low:.1%} to {r.high:.1%}" for r in rows)
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
        f'{escape(spoken)}">{head}{"".join(shapes)}</svg>'
    )


def _stage(
    row: StageRow, x: Callable[[float], float], y: float, left: float, *, stacked: bool
) -> list[str]:
    """A stage's name, track, whiskers, dot and value. x: the place of a share from left to right.
    y: of the line's middle. left: where the lines begin.
    """
    low, mid, high = x(row.low), x(row.accuracy), x(row.high)
    at = (
        f'x="{left:.0f}" y="{y - 13:.1f}"'
        if stacked
        else f'x="{left - 16:.0f}" y="{y + 5:.1f}" text-anchor="end"'
    )
    ends = [
        f'<line class="whisker" x1="{end:.1f}" x2="{end:.1f}" y1="{y - 5:.1f}" y2="{y + 5:.1f}"/>'
        for end in (low, high)
    ]
    return [
        f'<text class="name" {at}>{escape(row.short_label)}</text>',
        f'<line class="track" x1="{left:.1f}" x2="{mid:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>',
        f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>',
        *ends,
        f'<circle class="dot" cx="{mid:.1f}" cy="{y:.1f}" r="5.5"/>',
        f'<text class="value" x="{high + 11:.1f}" y="{y + 5:.1f}">{row.accuracy:.1%}</text>',
    ]


_STANDALONE = (
    "<style>text{font:13px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#59636e}"
    ".name,.value{font-size:15px;fill:#1f2328}.value{font-weight:600}"
    ".title{font-size:16px;font-weight:600;fill:#1f2328}"
    ".page{fill:#fff;stroke:#d1d9e0}.grid{stroke:#d1d9e0}"
    ".track{stroke:#0969da;stroke-opacity:.18;stroke-width:3}"
    ".whisker{stroke:#0969da;stroke-width:2.5;stroke-linecap:round}.dot{fill:#0969da}"
    "@media(prefers-color-scheme:dark){text{fill:#9198a1}.name,.value,.title{fill:#e6edf3}"
    ".page{fill:#0d1117;stroke:#30363d}"
    ".grid{stroke:#30363d}.track,.whisker{stroke:#4493f8}.dot{fill:#4493f8}}</style>"
)
