"""What there is to know of rows before they are trained on, as text of 80 columns and as a page."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.config import ComponentLike, DataLike
from posttrain.curation.copies import Files, TextRows, parts_of
from posttrain.curation.measures import Measures, measured, token_counts
from posttrain.curation.row_vectors import Embeddings
from posttrain.data.duplicates import Duplicates, find_duplicates
from posttrain.data.languages import language_of
from posttrain.data.row_texts import RowText, RowTexts
from posttrain.data.rows import stream_of
from posttrain.evaluation.contamination import Contamination, contamination
from posttrain.files import write_text_whole
from posttrain.methods.objects import ModelLike, model_of
from posttrain.models.spec import ModelSpec

Array = np.ndarray

MEASURES = ("completion_words", "repetition", "symbol_ratio", "alphabetic_share")
"""What is measured where nothing is said."""

_SHOWN = 240  # characters of an example
_NUM_EXAMPLES = 3  # at each end of a measure
_PERCENTILES = (0, 5, 50, 95, 100)
_PART = 512
_WIDTH, _NAME = 80, 36


@dataclass(frozen=True, slots=True)
class Shown:
    """A row in a report. place: from 0 over all files. value: of the measure it is shown for."""

    place: int
    value: float
    text: str


@dataclass(slots=True)
class Part:
    """One file or source.

    name: of it. form: its format, "" where none fits. num_rows, num_unread: rows, and those that
    the format cannot read. num_characters: of all text. lengths: tokens of each row. roles: turns
    by role.
    """

    name: str
    form: str = ""
    num_rows: int = 0
    num_unread: int = 0
    num_characters: int = 0
    lengths: list[Array] = field(default_factory=list)
    roles: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)

    def percentiles(self) -> list[int]:
        """Tokens: shortest, 5 %, median, 95 %, longest."""
        values = np.concatenate([*self.lengths, np.zeros(0)])
        return [int(x) for x in np.percentile(values, _PERCENTILES)] if len(values) else [0] * 5

    def num_tokens(self) -> int:
        """Of all rows."""
        return int(sum(int(x.sum()) for x in self.lengths))


@dataclass(slots=True)
class Measured:
    """A measure of all rows. lowest, highest: rows at its ends."""

    name: str
    values: Array
    lowest: list[Shown] = field(default_factory=list)
    highest: list[Shown] = field(default_factory=list)

    def percentiles(self) -> list[float]:
        """Lowest, 5 %, median, 95 %, highest; empty where nothing could be measured."""
        finite = self.values[np.isfinite(self.values)]
        return [float(x) for x in np.percentile(finite, _PERCENTILES)] if len(finite) else []

    @property
    def num_unmeasured(self) -> int:
        """Rows without a value."""
        return int((~np.isfinite(self.values)).sum())


@dataclass(slots=True)
class DataReport:
    """What `data_report` found. `print` shows it in 80 columns, `save` writes a page.

    copies: (a row, rows that copy it) of the largest clusters.
    """

    parts: list[Part]
    unit: str
    duplicates: Duplicates | None = None
    copies: list[tuple[Shown, list[Shown]]] = field(default_factory=list)
    overlaps: dict[str, Contamination] = field(default_factory=dict)
    measures: list[Measured] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        """Of all parts."""
        return sum(part.num_rows for part in self.parts)

    def save(self, path: str | Path) -> Path:
        """Write the page, one HTML file that loads nothing."""
        from posttrain.report.data_page import data_page

        place = Path(path).expanduser()
        place.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(place, data_page(self.as_dict()), errors="replace")
        return place

    def as_dict(self) -> dict[str, Any]:
        """As plain data, which the page is made from."""
        found = self.duplicates
        return {
            "unit": self.unit,
            "parts": [
                {
                    "name": part.name,
                    "format": part.form,
                    "rows": part.num_rows,
                    "unread": part.num_unread,
                    "characters": part.num_characters,
                    "tokens": part.num_tokens(),
                    "percentiles": part.percentiles(),
                    "lengths": _histogram(np.concatenate([*part.lengths, np.zeros(0)])),
                    "roles": dict(part.roles.most_common()),
                    "languages": dict(part.languages.most_common(6)),
                }
                for part in self.parts
            ],
            "duplicates": None
            if found is None
            else {
                "exact": found.num_exact,
                "near": found.num_near,
                "threshold": found.threshold,
                "rows": len(found.first),
                "clusters": [
                    [_plain(first), [_plain(copy) for copy in copies]]
                    for first, copies in self.copies
                ],
            },
            "overlaps": {
                name: {
                    "items": report.num_items,
                    "short": report.num_short,
                    "hits": [
                        {"row": h.row, "share": h.share, "item": h.text, "text": h.row_text}
                        for h in report.hits[:5]
                    ],
                    "num_hits": len(report.hits),
                }
                for name, report in self.overlaps.items()
            },
            "measures": [
                {
                    "name": m.name,
                    "percentiles": m.percentiles(),
                    "unmeasured": m.num_unmeasured,
                    "histogram": _histogram(m.values),
                    "lowest": [_plain(row) for row in m.lowest],
                    "highest": [_plain(row) for row in m.highest],
                }
                for m in self.measures
            ],
        }

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def data_report(
    data: Files,
    *,
    against: Mapping[str, DataLike] | None = None,
    measures: Sequence[ComponentLike] = MEASURES,
    model: ModelLike | None = None,
    threshold: float = 0.7,
    near: bool = True,
    evaluation_columns: Sequence[str] | None = None,
    embeddings: Embeddings = "words",
    max_length: int = 1024,
    output: str | Path | None = None,
) -> DataReport:
    """What there is to know of rows before they are trained on.

        report = pt.data_report(["a.jsonl", "b.jsonl"], against={"gsm8k": "test.jsonl"})
        print(report)
        report.save("report.html")

    Formats, rows that cannot be read, lengths in tokens, roles, languages; copies within and
    between files; items of evaluations that stand in the rows; measures with the rows at their
    ends. Rows are read a few times, one after the other, and may exceed memory.

    Args:
        data: rows, a file, or several files.
        against: evaluations by name.
        measures: names of quality measures; `posttrain ls qualities` lists them.
        model: for its tokenizer, and for measures such as perplexity and ifd. Without one, lengths
            are words and signs.
        threshold: least similarity of near copies.
        near: look for near copies too.
        evaluation_columns: columns of the evaluations that are looked for.
        embeddings: of measures of diversity.
        max_length: tokens of a row that the model reads.
        output: a file for the page, which ends in .html.

    Raises:
        ConfigError: no such measure, or one that needs a model; before anything is read.
        DataError: as `rows_of`.
    """
    spec = model_of(model)
    chosen = Measures.of(list(measures), spec, embeddings, max_length)
    if isinstance(data, Iterator):
        data = list(data)
    parts: list[Part] = []
    report = DataReport(parts, "tokens" if spec is not None else "words and signs")
    values = measured(_summarised(data, parts, spec), chosen)
    report.duplicates = find_duplicates(
        (row["text"] for row in TextRows(data)), threshold=threshold, near=near
    )
    for name, items in (against or {}).items():
        report.overlaps[name] = contamination(items, TextRows(data), columns=evaluation_columns)
    report.measures = [Measured(name, column) for name, column in values.items()]
    _show_examples(report, data)
    if output is not None:
        report.save(output)
    return report


def _summarised(data: Files, parts: list[Part], spec: ModelSpec | None) -> Iterator[RowText]:
    """The texts of all rows, while the parts are counted."""
    parts.clear()
    for number, source in enumerate(parts_of(data)):
        name = str(source) if isinstance(source, str | Path) else f"rows {number + 1}"
        part = Part(name)
        parts.append(part)
        reader = RowTexts()
        waiting: list[str] = []
        for _, row in reader(stream_of(source)):
            part.form = reader.form.name if reader.form is not None else ""
            part.num_rows += 1
            part.num_unread += row.item is None and reader.form is not None
            part.num_characters += len(row.text)
            part.roles.update(row.roles)
            part.languages[language_of(row.text[:1000]) or "none"] += 1
            waiting.append(row.text)
            if len(waiting) == _PART:
                part.lengths.append(token_counts(waiting, spec))
                waiting = []
            yield row
        part.lengths.append(token_counts(waiting, spec))


def _show_examples(report: DataReport, data: Files) -> None:
    """Fill in the rows that are shown: one more pass."""
    wanted: dict[int, str] = {}
    ends: list[tuple[Measured, list[int], list[int]]] = []
    for measure in report.measures:
        finite = np.flatnonzero(np.isfinite(measure.values))
        order = finite[np.argsort(measure.values[finite], kind="stable")]
        low, high = order[:_NUM_EXAMPLES].tolist(), order[::-1][:_NUM_EXAMPLES].tolist()
        ends.append((measure, low, high))
        wanted |= dict.fromkeys([*low, *high], "")
    clusters = report.duplicates.clusters(5) if report.duplicates is not None else []
    for first, copies in clusters:
        wanted |= dict.fromkeys([first, *copies[:_NUM_EXAMPLES]], "")
    for place, row in enumerate(TextRows(data)):
        if place in wanted:
            wanted[place] = row["text"][:_SHOWN]
    for measure, low, high in ends:
        measure.lowest, measure.highest = (
            [Shown(i, float(measure.values[i]), wanted[i]) for i in places]
            for places in (low, high)
        )
    for first, copies in clusters:
        assert report.duplicates is not None
        shown = [
            Shown(i, float(report.duplicates.similarity[i]), wanted[i])
            for i in copies[:_NUM_EXAMPLES]
        ]
        report.copies.append((Shown(first, float(len(copies)), wanted[first]), shown))


def _plain(row: Shown) -> dict[str, Any]:
    return {"place": row.place, "value": row.value, "text": row.text}


def _histogram(values: Array, bins: int = 24) -> dict[str, list[float]]:
    """Counts in equal bins from the 1st to the 99th percentile; the ends hold what lies outside."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return {"edges": [], "counts": []}
    low, high = (float(x) for x in np.percentile(finite, (1, 99)))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(np.clip(finite, low, high), bins, (low, high))
    return {"edges": [float(x) for x in edges], "counts": [float(x) for x in counts]}


# -- text of 80 columns


def _lines(report: DataReport) -> list[str]:
    lines = []
    for part in report.parts:
        form = part.form or "no known format"
        name = part.name if len(part.name) <= _NAME else f"…{part.name[1 - _NAME :]}"
        lines.append(f"{name}: {part.num_rows:,} rows, {form}")
        low, p5, middle, p95, high = (f"{n:,}" for n in part.percentiles())
        lines.append(
            f"  {report.unit}  {part.num_tokens():,}; per row {middle} (5 % {p5}, 95 % {p95}, "
            f"{low} to {high})"
        )
        if part.roles:
            shown = ", ".join(f"{role} {n:,}" for role, n in part.roles.most_common())
            lines.append(f"  turns   {shown}")
        languages = ", ".join(
            f"{code} {n / max(part.num_rows, 1):.0%}" for code, n in part.languages.most_common(4)
        )
        lines.append(f"  language  {languages}")
        if part.num_unread:
            lines.append(f"  {part.num_unread:,} rows cannot be read as this format")
    if report.duplicates is not None:
        found = report.duplicates
        lines += ["", f"copies: {found.num_exact:,} exact, {found.num_near:,} near (similarity at "
                  f"least {found.threshold:g})"]  # fmt: skip
        for first, copies in report.copies[:3]:
            lines.append(_cut(f"  row {first.place} x{1 + int(first.value)}: {first.text}"))
            lines += [_cut(f"    row {c.place} ({c.value:.2f}): {c.text}") for c in copies[:1]]
    for name, overlap in report.overlaps.items():
        lines.append(f"overlap with {name}: {len(overlap.hits):,} of {overlap.num_items:,} items")
        lines += [_cut(f"  row {h.row} ({h.share:.0%}): {h.text}") for h in overlap.hits[:2]]
    lines += _measure_lines(report.measures)
    return [line[:_WIDTH] for line in lines]


def _measure_lines(measures: Sequence[Measured]) -> list[str]:
    if not measures:
        return []
    width = max(len(m.name) for m in measures)
    width = min(max(width, 7), 28)
    lines = ["", f"{'measure':<{width}}  " + "".join(f"{h:>9}" for h in
             ("lowest", "5 %", "median", "95 %", "highest"))]  # fmt: skip
    for measure in measures:
        cells = "".join(f"{x:>9.3g}" for x in measure.percentiles()) or "  not measured"
        lines.append(f"{measure.name[:width]:<{width}}  {cells}")
    for measure in measures:
        for end, rows in (("lowest", measure.lowest), ("highest", measure.highest)):
            if rows:
                head = f"{end} {measure.name} {rows[0].value:.3g}, row {rows[0].place}: "
                lines.append(_cut(head + rows[0].text))
    return lines


def _cut(text: str) -> str:
    return textwrap.shorten(text, _WIDTH, placeholder="…") if text.strip() == text else (
        " " * (len(text) - len(text.lstrip()))
        + textwrap.shorten(text, _WIDTH - (len(text) - len(text.lstrip())), placeholder="…")
    )  # fmt: skip
