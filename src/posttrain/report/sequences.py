"""Sequences of trainings under several methods on a page: the table, and heat maps of accuracy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from posttrain.files import write_text_whole
from posttrain.report.markup import Row, paragraphs, table

CELL_WIDTH, CELL_HEIGHT, LEFT, TOP, BOTTOM = 72, 28, 132, 84, 36
_FULL = (31, 111, 235)
_MAX_NAME = 16

Matrix = Sequence[Sequence[float]]


def accuracy_map(title: str, stages: Sequence[str], scores: Matrix, *, alone: bool = True) -> str:
    """An SVG document of accuracies: rows are stages, columns tasks. A task's own stage is framed.

    Args:
        scores: [N + 1, N], row 0 before the first stage.
        alone: whether the document stands alone, and not in a page.
    """
    shapes = [
        f'<text transform="translate({LEFT + CELL_WIDTH * (j + 0.4):.0f},{TOP - 8}) rotate(-25)">'
        f"{escape(_short(name))}</text>"
        for j, name in enumerate(stages)
    ]
    for i, row in enumerate(scores):
        y = TOP + CELL_HEIGHT * i
        label = "before" if i == 0 else f"after {_short(stages[i - 1])}"
        shapes.append(f'<text x="{LEFT - 8}" y="{y + 18}" text-anchor="end">{escape(label)}</text>')
        for j, score in enumerate(row):
            frame = ' stroke="#24292f" stroke-width="2"' if i == j + 1 else ""
            x = LEFT + CELL_WIDTH * j
            shapes.append(
                f'<rect x="{x + 1}" y="{y + 1}" width="{CELL_WIDTH - 2}" '
                f'height="{CELL_HEIGHT - 2}" fill="{_colour(score)}"{frame}/>'
                f'<text x="{x + CELL_WIDTH / 2:.0f}" y="{y + 18}" text-anchor="middle">'
                f"{score:.0%}</text>"
            )
    width = max(LEFT + CELL_WIDTH * len(stages) + 24, 420)
    height = TOP + CELL_HEIGHT * len(scores) + BOTTOM
    ground = f'<rect width="{width}" height="{height}" fill="white"/>' if alone else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'font-family="sans-serif" font-size="12" style="max-width:{width}px">'
        f'<title>{escape(title)}</title>{ground}<text x="8" y="20" font-size="14">'
        f'{escape(title)}</text>{"".join(shapes)}<text x="8" y="{height - 12}">accuracy on each '
        "task (columns) after each stage (rows); framed: its own stage</text></svg>\n"
    )


def _colour(score: float) -> str:
    """From white for 0 to blue for 1."""
    part = 0.75 * min(max(score, 0.0), 1.0)  # not quite full, so that black text stays readable
    return "#" + "".join(f"{round(255 + (c - 255) * part):02x}" for c in _FULL)


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 3]}..."


def mean_scores(values: Mapping[str, Any], name: str) -> list[list[float]]:
    """A method's matrix, the mean over seeds, from what sequences.json holds."""
    matrices = values["scores"][name]
    return [
        [sum(m[i][j] for m in matrices) / len(matrices) for j in range(len(row))]
        for i, row in enumerate(matrices[0])
    ]


def write_heat_maps(values: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write accuracy-NAME.svg of each method, the mean over seeds.

    Args:
        values: what sequences.json holds.
    """
    files = []
    for name in values["scores"]:
        called = re.sub(r"[^\w.=-]+", "-", name).strip("-")
        files.append(folder / f"accuracy-{called}.svg")
        write_text_whole(files[-1], accuracy_map(name, values["stages"], mean_scores(values, name)))
    return files


def sequences(values: Mapping[str, Any]) -> str:
    """The table, the comparisons and the heat maps, from what sequences.json holds."""
    columns = list(dict.fromkeys(m for row in values["table"].values() for m in row))
    rows = [
        Row(name, [_cell(column, cells.get(column)) for column in columns])
        for name, cells in values["table"].items()
    ]
    pairs = [
        Row(
            f"{c['b']} - {c['a']}, {c['measure']}",
            [
                f"{c['estimate']:+.1%}",
                f"{c['low']:+.1%} to {c['high']:+.1%}",
                f"{c['p_value']:.2g}",
            ],
        )
        for c in values["comparisons"]
    ]
    head = ["difference", "estimate", "95% interval", "p (Holm)"]
    maps = "".join(
        "<figure>"
        + accuracy_map(name, values["stages"], mean_scores(values, name), alone=False)
        + "</figure>"
        for name in values["scores"]
    )
    number = len(values["seeds"])
    facts = f"{values['model']}: {' > '.join(values['stages'])}; {number} seeds"
    compared = table(head, pairs, "Differences, paired over seeds") if pairs else ""
    return (
        paragraphs([facts])
        + table(["method", *columns], rows, "Means over seeds, with 95% intervals")
        + compared
        + maps
    )


def _cell(measure: str, cell: Mapping[str, float | None] | None) -> str:
    if cell is None:
        return ""
    sign = "" if measure == "AP" else "+"
    text = f"{cell['estimate']:{sign}.1%}"
    if cell["low"] is None:
        return text
    return f"{text} ({cell['low']:{sign}.1%} to {cell['high']:{sign}.1%})"
