"""A benchmark of continual pretraining on a page: its table, and heat maps of all domains after all
stages.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from posttrain.files import write_text_whole
from posttrain.report.markup import Row, paragraphs, table

CELL_WIDTH, CELL_HEIGHT, LEFT, TOP, LEGEND = 62, 26, 132, 92, 34
_BETTER, _WORSE = (31, 111, 235), (209, 36, 47)  # blue and red
_LEAST_SCALE = 0.05  # nats at which a colour is full, at least
_MAX_NAME = 16

Matrix = Sequence[Sequence[float]]


def heat_map(title: str, order: Sequence[str], values: Matrix, *, alone: bool = True) -> str:
    """An SVG document of perplexities: rows are stages, columns domains in the order of training.

    The colour is the gain over the model before the first stage, ln P(0, j) - ln P(i, j): blue is
    better, red worse. A domain's own stage is framed.

    Args:
        values: nats per token [N + 1, N].
        alone: whether the document stands alone, and not in a page.
    """
    gains = [[values[0][j] - v for j, v in enumerate(row)] for row in values]
    scale = max(_LEAST_SCALE, *(abs(gain) for row in gains for gain in row))
    shapes = [
        f'<text transform="translate({LEFT + CELL_WIDTH * (j + 0.5):.0f},{TOP - 8}) rotate(-30)">'
        f"{escape(_short(name))}</text>"
        for j, name in enumerate(order)
    ]
    for i, row in enumerate(values):
        y = TOP + CELL_HEIGHT * i
        label = "before" if i == 0 else f"{i} {_short(order[i - 1])}"
        shapes.append(f'<text x="{LEFT - 8}" y="{y + 17}" text-anchor="end">{escape(label)}</text>')
        for j, nats in enumerate(row):
            frame = ' stroke="#24292f" stroke-width="2"' if i == j + 1 else ""
            x = LEFT + CELL_WIDTH * j
            name = f"{order[j]} after stage {i}: perplexity {math.exp(nats):.4g}"
            shapes.append(
                f'<g><title>{escape(name)}</title><rect x="{x + 1}" y="{y + 1}" '
                f'width="{CELL_WIDTH - 2}" height="{CELL_HEIGHT - 2}" '
                f'fill="{_colour(gains[i][j] / scale)}"{frame}/>'
                f'<text x="{x + CELL_WIDTH / 2:.0f}" y="{y + 17}" text-anchor="middle">'
                f"{_number(math.exp(nats))}</text></g>"
            )
    width = max(LEFT + CELL_WIDTH * len(order) + 24, 450)  # the legend is as wide
    bottom = TOP + CELL_HEIGHT * len(values)
    legend = (
        f"perplexity; blue: up to {scale:.2f} nats better than before, red: worse; framed: own "
        "stage"
    )
    size = "" if not alone else f'<rect width="{width}" height="{bottom + LEGEND}" fill="white"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + LEGEND}" '
        f'role="img" font-family="sans-serif" font-size="11" style="max-width:{width}px">'
        f'<title>{escape(title)}</title>{size}<text x="8" y="18" font-size="13">{escape(title)}'
        f'</text>{"".join(shapes)}<text x="8" y="{bottom + 20}">{escape(legend)}</text></svg>\n'
    )


def _colour(share: float) -> str:
    """From white to blue for 1, to red for -1."""
    tone = _BETTER if share > 0 else _WORSE
    part = 0.75 * min(abs(share), 1.0)  # not quite full, so that black text stays readable
    mixed = (round(255 + (c - 255) * part) for c in tone)
    return "#" + "".join(f"{c:02x}" for c in mixed)


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 3]}..."


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.3g}"


def write_heat_maps(values: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write heat_map-NAME.svg of each stream, of its first seed.

    Args:
        values: what continual.json holds.
    """
    files = []
    for stream in values["streams"]:
        name = re.sub(r"[^\w.=-]+", "-", stream["name"])
        files.append(folder / f"heat_map-{name}.svg")
        write_text_whole(files[-1], _map_of(stream, values["seeds"][0]))
    return files


def _map_of(stream: Mapping[str, Any], seed: int, *, alone: bool = True) -> str:
    title = f"{stream['name']}, seed {seed}"
    return heat_map(title, stream["orders"][0], stream["values"]["nats"][0], alone=alone)


def benchmark(values: Mapping[str, Any]) -> str:
    """The table, the comparisons and the heat maps, from what continual.json holds."""
    columns = list(next(iter(values["table"].values())))
    rows = [
        Row(name, [_interval(cells[column]) for column in columns])
        for name, cells in values["table"].items()
    ]
    pairs = [_compared(comparison) for comparison in values["comparisons"]]
    head = ["difference", "nats per token", "95% interval", "p (Holm)"]
    maps = "".join(
        f"<figure>{_map_of(stream, values['seeds'][0], alone=False)}</figure>"
        for stream in values["streams"]
    )
    number = len(values["seeds"])
    facts = f"{values['model']}: {len(values['domains'])} domains, {number} seeds"
    return (
        paragraphs([facts])
        + table(["stream", *columns], rows, "Perplexity, mean over domains and seeds")
        + table(head, pairs, "Differences, paired over seeds")
        + maps
    )


def _interval(cell: Mapping[str, Any]) -> str:
    text = f"{cell['estimate']:.2f}"
    return text if cell["low"] is None else f"{text} ({cell['low']:.2f} to {cell['high']:.2f})"


def _compared(comparison: Mapping[str, Any]) -> Row:
    d = comparison["difference"]
    ends = "" if d["low"] is None else f"{d['low']:+.4f} to {d['high']:+.4f}"
    p = comparison["p_value"]
    cells = [f"{d['estimate']:+.4f}", ends, "" if p is None else f"{p:.2g}"]
    return Row(f"{comparison['b']} - {comparison['a']}", cells)
