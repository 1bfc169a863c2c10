"""The page of rows: counts, lengths, copies, overlap with evaluations, measures and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from posttrain.report.html import document
from posttrain.report.markup import Row, paragraphs, table

WIDTH, HEIGHT, LEFT, BOTTOM = 340, 120, 8, 18

Values = Mapping[str, Any]


def data_page(report: Values) -> str:
    """The page as text. report: `DataReport.as_dict()`."""
    report = {**report, "parts": _named(report["parts"])}
    parts = report["parts"]
    num_rows = sum(part["rows"] for part in parts)
    tokens = sum(part["tokens"] for part in parts)
    files = f"{len(parts)} files" if len(parts) > 1 else escape(parts[0]["name"])
    head = (
        f"<header><h1>{num_rows:,} rows</h1>"
        f'<p class="dim">{files} · {tokens:,} {escape(report["unit"])}</p>'
        f"{paragraphs(_verdicts(report))}</header>"
    )
    sections = [
        ("Files", _files(report)),
        ("Lengths", _lengths(report)),
        ("Copies", _copies(report["duplicates"])),
        ("Overlap with evaluations", _overlaps(report["overlaps"])),
        ("Measures", _measures(report["measures"])),
        ("Rows at the ends", _examples(report["measures"])),
    ]
    return document(f"{num_rows:,} rows", head, sections)


def _named(parts: Sequence[Values]) -> list[Values]:
    """Parts with the ends of their names that tell them apart."""
    names = [str(part["name"]) for part in parts]
    short = [name.rsplit("/", 1)[-1] for name in names]
    return [
        {**part, "name": own if short.count(own) == 1 else name}
        for part, own, name in zip(parts, short, names, strict=True)
    ]


def _verdicts(report: Values) -> list[str]:
    """What a reader should know first."""
    lines = []
    found = report["duplicates"]
    if found and found["exact"] + found["near"]:
        share = (found["exact"] + found["near"]) / max(found["rows"], 1)
        lines.append(
            f"{share:.1%} of the rows copy an earlier row: {found['exact']:,} exactly, "
            f"{found['near']:,} nearly."
        )
    for name, overlap in report["overlaps"].items():
        if overlap["num_hits"]:
            lines.append(
                f"{overlap['num_hits']:,} of {overlap['items']:,} items of {name} stand in the "
                "rows: a score on it would not be one of generalisation."
            )
    unread = sum(part["unread"] for part in report["parts"])
    if unread:
        lines.append(f"{unread:,} rows cannot be read as the format of their file.")
    return lines or ["No copies, no overlap with the evaluations given, every row can be read."]


def _files(report: Values) -> str:
    rows = []
    for part in report["parts"]:
        roles = ", ".join(f"{role} {n:,}" for role, n in part["roles"].items()) or "-"
        languages = ", ".join(
            f"{code} {n / max(part['rows'], 1):.0%}" for code, n in part["languages"].items()
        )
        cells = [
            part["format"] or "no known format",
            f"{part['rows']:,}",
            f"{part['unread']:,}",
            f"{part['tokens']:,}",
            roles,
            languages,
        ]
        rows.append(Row(part["name"], cells, ["", "", "bad" if part["unread"] else ""]))
    names = ("file", "format", "rows", "unreadable", report["unit"], "turns", "languages")
    return table(names, rows, "What each file holds")


def _lengths(report: Values) -> str:
    rows = [Row(part["name"], [f"{n:,}" for n in part["percentiles"]]) for part in report["parts"]]
    names = ("file", "shortest", "5 %", "median", "95 %", "longest")
    charts = "".join(
        histogram(part["name"], part["lengths"], report["unit"], place)
        for place, part in enumerate(report["parts"])
    )
    caption = f"{report['unit'].capitalize()} per row"
    return table(names, rows, caption) + f'<div class="charts">{charts}</div>'


def histogram(title: str, values: Values, unit: str, colour: int = 0) -> str:
    """A chart of counts in bins, whose ends hold what lies outside of the 1st and 99th percentile.
    Nothing without values.
    """
    counts: Sequence[float] = values["counts"]
    if not counts:
        return ""
    edges: Sequence[float] = values["edges"]
    top, step = max(counts), (WIDTH - 2 * LEFT) / len(counts)
    bars = "".join(
        f'<rect x="{LEFT + i * step:.1f}" y="{_y(n, top):.1f}" width="{max(step - 1, 1):.1f}" '
        f'height="{HEIGHT - BOTTOM - _y(n, top):.1f}" fill="var(--s{colour % 6})">'
        f"<title>{edges[i]:.4g} to {edges[i + 1]:.4g}: {n:,.0f} rows</title></rect>"
        for i, n in enumerate(counts)
    )
    base = HEIGHT - BOTTOM
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(title)}: rows by {escape(unit)}">{bars}'
        f'<line x1="{LEFT}" x2="{WIDTH - LEFT}" y1="{base}" y2="{base}" stroke="var(--line)"/>'
        f'<text x="{LEFT}" y="{HEIGHT - 4}" fill="var(--dim)" font-size="11">{edges[0]:.3g}</text>'
        f'<text x="{WIDTH - LEFT}" y="{HEIGHT - 4}" fill="var(--dim)" font-size="11" '
        f'text-anchor="end">{edges[-1]:.3g} {escape(unit)}</text></svg></figure>'
    )


def _y(number: float, top: float) -> float:
    return 6 + (1 - number / top) * (HEIGHT - BOTTOM - 6)


def _worded(heading: str, cells: Sequence[str]) -> Row:
    """A row whose first two cells are short and stay on one line."""
    return Row(heading, cells, ["tight", "tight"])


def _copies(found: Values | None) -> str:
    if found is None:
        return ""
    lines = [
        f"{found['exact']:,} exact copies of earlier rows, {found['near']:,} near copies (at least "
        f"{found['threshold']:g} of their runs of words in common)."
    ]
    rows = []
    for first, copies in found["clusters"]:
        times = f"x {1 + int(first['value'])}"
        rows.append(_worded("kept", [f"row {first['place']}", times, first["text"]]))
        rows += [
            _worded("copy", [f"row {c['place']}", f"{c['value']:.2f}", c["text"]]) for c in copies
        ]
    if not rows:
        return paragraphs(lines)
    names = ("", "row", "similarity, times", "beginning")
    return paragraphs(lines) + table(names, rows, "Rows with the most copies", words=True)


def _overlaps(overlaps: Values) -> str:
    parts = []
    for name, overlap in overlaps.items():
        short = f", {overlap['short']:,} too short to compare" if overlap["short"] else ""
        parts.append(
            paragraphs([f"{name}: {overlap['num_hits']:,} of {overlap['items']:,} items{short}."])
        )
        rows = [
            _worded("", [f"row {hit['row']}", f"{hit['share']:.0%}", hit["item"], hit["text"]])
            for hit in overlap["hits"]
        ]
        if rows:
            names = ("", "row", "share", "item", "row's beginning")
            parts.append(table(names, rows, f"First items of {name}", words=True))
    return "".join(parts)


def _measures(measures: Sequence[Values]) -> str:
    if not measures:
        return ""
    rows = []
    for measure in measures:
        cells = [f"{x:.3g}" for x in measure["percentiles"]] or ["-"] * 5
        rows.append(Row(measure["name"], [*cells, f"{measure['unmeasured']:,}"]))
    names = ("measure", "lowest", "5 %", "median", "95 %", "highest", "not measured")
    charts = "".join(
        histogram(measure["name"], measure["histogram"], "", place)
        for place, measure in enumerate(measures)
    )
    return table(names, rows, "Over all rows") + f'<div class="charts">{charts}</div>'


def _examples(measures: Sequence[Values]) -> str:
    rows = []
    for measure in measures:
        for end in ("lowest", "highest"):
            for number, row in enumerate(measure[end]):
                name = f"{end} {measure['name']}" if not number else ""
                cells = [f"row {row['place']}", f"{row['value']:.3g}", row["text"]]
                rows.append(_worded(name, cells))
    names = ("end", "row", "value", "beginning")
    return table(names, rows, "Rows worth a look", words=True) if rows else ""
