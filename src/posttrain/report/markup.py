"""Pieces of HTML that several sections of a page are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any


def safe_json(values: Any) -> str:
    """JSON for a script element: it holds no "<", so no text in it can end that element."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: its heading and its cells. classes: one per cell, "" for none."""

    heading: str
    cells: Sequence[str]
    classes: Sequence[str] = ()


def table(head: Sequence[str], rows: Sequence[Row], caption: str, *, words: bool = False) -> str:
    """A table whose first column holds the rows' headings.

    Each cell carries the name of its column as data-label: on a narrow screen a row is shown as a
    list of names and values.

    Args:
        words: the cells hold sentences, which are aligned left and wrapped.
    """
    heads = "".join(f'<th scope="col">{escape(h)}</th>' for h in head)
    body = "".join(_row(head[1:], row) for row in rows)
    kind = ' class="words"' if words else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table{kind}><caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(names: Sequence[str], row: Row) -> str:
    classes = [*row.classes, *[""] * (len(row.cells) - len(row.classes))]
    kinds = [f' class="{kind}"' if kind else "" for kind in classes]
    cells = "".join(
        f'<td data-label="{escape(name)}"{kind}>{escape(cell)}</td>'
        for name, cell, kind in zip(names, row.cells, kinds, strict=True)
    )
    return f'<tr><th scope="row">{escape(row.heading)}</th>{cells}</tr>'


def paragraphs(lines: Sequence[str], *, dim: bool = False) -> str:
    """One paragraph per line."""
    kind = ' class="dim"' if dim else ""
    return "".join(f"<p{kind}>{escape(line)}</p>" for line in lines)


def folded(title: str, inside: str) -> str:
    """Markup that is shown when its title is clicked."""
    return f"<details><summary>{escape(title)}</summary>{inside}</details>"


def recipe(text: str) -> str:
    """The recipe of a run, folded; nothing without one."""
    return folded("Recipe", f"<pre tabindex=0>{escape(text)}</pre>") if text else ""


def browser(kind: str, index: int, values: object) -> str:
    """The data of a browser and the place where the page's script builds it."""
    name = f"{kind}-{index}"
    return (
        f'<div class="browser" data-browse="{kind}" data-from="{name}"><noscript>Needs '
        "JavaScript.</noscript></div>"
        f'<script type="application/json" id="{name}">{safe_json(values)}</script>'
    )


def switch(name: str, label: str, *, on: bool = False, hint: str = "") -> str:
    """A checkbox that sets or clears the class `name` of its section (the script does it)."""
    title = f' title="{escape(hint)}"' if hint else ""
    checked = " checked" if on else ""
    return (
        f'<label class="toggle"{title}><input type="checkbox"{checked} data-switch="{name}"> '
        f"{escape(label)}</label>"
    )
