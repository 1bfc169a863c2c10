"""The table of a pipeline's stages, on the terminal and as cells for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from posttrain.report.run_folder import StageRow, Summary, read_run
from posttrain.terminal import styled, visible, write, write_table

SIGNIFICANT = 0.05


def print_summary(folder: Path, console: Console) -> None:
    """Print the stages of a pipeline run with intervals and paired p-values; nothing for other
    runs.

    Fits 80 columns. On a narrower or plain console the same lines are printed without colour and
    never folded.

    Raises:
        DataError: the folder holds no run, or a broken file.
    """
    summary = read_run(folder).summary
    if summary and summary.rows:
        write(console)
        write_table(console, summary_table(summary, console.width))
        for line in [*verdicts(summary.rows), *searches(summary.rows), *oracles(summary.rows)]:
            write(console, line, style="dim")


def summary_table(summary: Summary, width: int = 80) -> Table:
    """The stages as a rich table; the least telling columns are left out where `width` columns
    do not hold them all.
    """
    rows = summary.rows
    passes, votes = best_k([r.pass_at for r in rows]), best_k([r.maj_at for r in rows])
    columns: list[tuple[str, list[str]]] = [
        ("accuracy", [percent(r.accuracy) for r in rows]),
        ("95% interval", [interval_text(r) for r in rows]),
        ("p vs above", [p_text(r.p_value) for r in rows]),
    ]
    if passes:
        columns.append((f"pass@{passes}", [percent(r.pass_at.get(passes)) for r in rows]))
    columns.append(("tokens", [count(r.mean_tokens) for r in rows]))
    columns.append(("time", [time_text(r.seconds) for r in rows]))
    if votes:
        columns.insert(4, (f"maj@{votes}", [percent(r.maj_at.get(votes)) for r in rows]))
    dispensable = [f"maj@{votes}", "time", "tokens", f"pass@{passes}", "p vs above", "95% interval"]
    stage = min(max((len(r.label) for r in rows), default=0), 28)

    def needed() -> int:
        return stage + 2 + sum(max(len(name), *map(len, cells)) + 2 for name, cells in columns)

    while needed() > width and any(name in dispensable for name, _ in columns):
        out = next(d for d in dispensable if any(d == name for name, _ in columns))
        columns = [c for c in columns if c[0] != out]
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("stage", overflow="ellipsis", no_wrap=True, max_width=28)
    for name, _ in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for i, row in enumerate(rows):
        cells = [Text(cells[i]) for _, cells in columns]
        if row.p_value is not None and row.p_value < SIGNIFICANT and not row.oracle:
            cells[0].stylize("green" if row.accuracy > rows[i - 1].accuracy else "red")
        table.add_row(styled(visible(row.short_label)), *cells)
    return table


def verdicts(rows: Sequence[StageRow]) -> list[str]:
    """In words: which stage is better than the one above it, which is worse, which cannot be told.

    An oracle is no stage that another could be better than: it is left out, and so is what follows
    it.
    """
    compared = [
        (a, b) for a, b in pairwise(rows) if b.p_value is not None and not a.oracle and not b.oracle
    ]
    whole = len(compared) == len(rows) - 1

    def better(a: StageRow, b: StageRow) -> bool:
        return b.p_value is not None and b.p_value < SIGNIFICANT and b.accuracy > a.accuracy

    if whole and compared and all(better(a, b) for a, b in compared):
        return ["Every stage is better than the one above it (paired, p < 0.05)."]
    lines = []
    for a, b in compared:
        assert b.p_value is not None
        gained = f"{100 * (b.accuracy - a.accuracy):+.1f} points, p {p_text(b.p_value) or '?'}"
        if b.p_value >= SIGNIFICANT:
            lines.append(
                f"{b.stage}: no difference from {a.stage} that these problems can show ({gained})."
            )
        else:
            lines.append(
                f"{b.stage} is {'better' if b.accuracy > a.accuracy else 'worse'} than {a.stage} "
                f"({gained})."
            )
    return lines


def searches(rows: Sequence[StageRow]) -> list[str]:
    """The searches of the stages, with all their settings."""
    return [f"{row.label}: {row.search}." for row in rows if row.search]


def oracles(rows: Sequence[StageRow]) -> list[str]:
    """A line for each stage at which the gold chose."""
    return [oracle_text(row.label, row.num_samples) for row in rows if row.oracle]


def oracle_text(label: str, num_samples: int | None) -> str:
    """What an oracle is, beside its number."""
    among = "the candidates" if num_samples is None else f"{num_samples} samples"
    return f"{label}: the gold chose among {among}; no deployed system can reach this."


def best_k(columns: Sequence[Mapping[int, float]]) -> int | None:
    """The largest k for which any stage has a value."""
    ks = {k for column in columns for k in column}
    return max(ks) if ks else None


def percent(value: float | None) -> str:
    """A share in percent, or nothing."""
    return "" if value is None else f"{value:.1%}"


def interval_text(row: StageRow) -> str:
    """The interval of a row's accuracy."""
    return f"{row.low:.1%} to {row.high:.1%}"


def count(value: float | None) -> str:
    """A mean number of tokens, or nothing."""
    return "" if value is None else f"{value:,.0f}"


def time_text(seconds: float | None) -> str:
    """Seconds as people say them, or nothing."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def p_text(value: float | None) -> str:
    """A p-value as people write it."""
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
