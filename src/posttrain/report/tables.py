"""The table of a pipeline's stages on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from posttrain.report.run_folder import read_run


def print_summary(folder: Path, console: Console) -> None:
    """Print the stages of a pipeline run with intervals and paired p-values; nothing for other runs."""
    summary = read_run(folder).summary
    if not summary or not summary["rows"]:
        return
    rows = summary["rows"]
    k = best_k(rows)
    table = Table(title=None, box=None, padding=(0, 1), header_style="bold")
    table.add_column("stage", no_wrap=True)
    for name in ("accuracy", "95 % interval", "p vs above", *([f"pass@{k}"] if k else []), "tokens", "time"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [
            row["stage"],
            f"{row['accuracy']:.1%}",
            f"{row['low']:.1%} to {row['high']:.1%}",
            p_text(row["p_value"]),
        ]
        if k:
            cells.append(percent(row["pass@k"].get(k)))
        cells += [f"{row['mean_tokens']:.0f}", "" if row["seconds"] is None else f"{row['seconds']:.0f} s"]
        table.add_row(*cells)
    console.print()
    console.print(table)


def best_k(rows: list[dict[str, Any]]) -> str | None:
    """The largest k for which any stage has pass@k."""
    ks = {k for row in rows for k in row["pass@k"]}
    return max(ks, key=int) if ks else None


def percent(value: float | None) -> str:
    """A share in percent, or nothing."""
    return "" if value is None else f"{value:.1%}"


def p_text(value: float | None) -> str:
    """A p-value as people write it."""
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
