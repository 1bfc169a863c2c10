"""The table of a pipeline's stages, on the terminal and as cells for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from posttrain.report.records import StageRow, Summary
from posttrain.report.run_folder import read_run
from posttrain.terminal import styled, visible, write, write_table

SIGNIFICANT = 0.05
_MAX_STAGE = 28
_P_VALUE = "p (paired)"


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
    """The stages as a rich table. Where `width` does not hold all columns, the least important
    ones are left out.
    """
    rows = summary.rows
    columns = _fitting(_columns(rows), rows, width)
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    table.add_column("stage", overflow="ellipsis", no_wrap=True, max_width=_MAX_STAGE)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for i, row in enumerate(rows):
        cells = [Text(column[i]) for column in columns.values()]
        if row.p_value is not None and row.p_value < SIGNIFICANT and not row.oracle:
            cells[0].stylize("green" if row.accuracy > rows[i - 1].accuracy else "red")
        table.add_row(styled(visible(row.short_label)), *cells)
    return table


def _columns(rows: Sequence[StageRow]) -> dict[str, list[str]]:
    """All columns after the stage, by name, in the order of the table."""
    passes, votes = best_k([r.pass_at for r in rows]), best_k([r.maj_at for r in rows])
    columns = {
        "accuracy": [percent(r.accuracy) for r in rows],
        "95% interval": [interval_text(r) for r in rows],
        _P_VALUE: [p_text(r.p_value) for r in rows],
    }
    if passes:
        columns[f"pass@{passes}"] = [percent(r.pass_at.get(passes)) for r in rows]
    if votes:
        columns[f"maj@{votes}"] = [percent(r.maj_at.get(votes)) for r in rows]
    columns["tokens"] = [count(r.mean_tokens) for r in rows]
    columns["time"] = [time_text(r.seconds) for r in rows]
    return columns


def _fitting(
    columns: dict[str, list[str]], rows: Sequence[StageRow], width: int
) -> dict[str, list[str]]:
    """The columns that fit beside the stages' names; accuracy always stays."""
    stage = min(max((len(r.label) for r in rows), default=0), _MAX_STAGE) + 2
    sizes = {name: max(len(name), *map(len, cells)) + 2 for name, cells in columns.items()}
    votes = [name for name in columns if name.startswith("maj@")]
    passes = [name for name in columns if name.startswith("pass@")]
    for name in [*votes, "time", "tokens", *passes, _P_VALUE, "95% interval"]:
        if stage + sum(sizes.values()) <= width:
            break
        del sizes[name]
    return {name: cells for name, cells in columns.items() if name in sizes}


def verdicts(rows: Sequence[StageRow]) -> list[str]:
    """In words: whether each stage is better or worse than the previous one, or not significantly
    different.

    An oracle is not a result that another stage could improve on: it is left out, and so is the
    comparison of the stage after it.
    """
    compared = [
        (a, b) for a, b in pairwise(rows) if b.p_value is not None and not a.oracle and not b.oracle
    ]
    if compared and len(compared) == len(rows) - 1 and all(_better(a, b) for a, b in compared):
        return ["Every stage is better than the previous one (paired, p < 0.05)."]
    return [_verdict(a, b) for a, b in compared]


def _better(a: StageRow, b: StageRow) -> bool:
    return b.p_value is not None and b.p_value < SIGNIFICANT and b.accuracy > a.accuracy


def _verdict(a: StageRow, b: StageRow) -> str:
    p = p_text(b.p_value)
    change = f"{100 * (b.accuracy - a.accuracy):+.1f} points, p {p if p[:1] == '<' else f'= {p}'}"
    if b.p_value is None or b.p_value >= SIGNIFICANT:
        return f"{b.stage} is not significantly different from {a.stage} ({change})."
    return f"{b.stage} is {'better' if _better(a, b) else 'worse'} than {a.stage} ({change})."


def searches(rows: Sequence[StageRow]) -> list[str]:
    """The searches of the stages, with all their settings."""
    return [f"{row.label}: {row.search}." for row in rows if row.search]


def oracles(rows: Sequence[StageRow]) -> list[str]:
    """A line for each stage at which the gold answer chose."""
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
    """A share in percent; empty for None."""
    return "" if value is None else f"{value:.1%}"


def interval_text(row: StageRow) -> str:
    """The interval of a row's accuracy."""
    return f"{row.low:.1%} to {row.high:.1%}"


def count(value: float | None) -> str:
    """A mean number of tokens; empty for None."""
    return "" if value is None else f"{value:,.0f}"


def time_text(seconds: float | None) -> str:
    """A duration in seconds, minutes or hours; empty for None."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def p_text(value: float | None) -> str:
    """A p-value with three digits, or "< 0.001"; empty for None."""
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
