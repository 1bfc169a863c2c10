"""Results of peer.py as text and as the README's Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from settings import label
from workloads import TABLE, WORKLOADS

PEERS = {"default": "TRL default", "best_time": "fastest TRL", "best_memory": "smallest TRL"}
START, END = "<!-- table of {}: benchmarks/peer.py --table -->", "<!-- end of the table -->"

Runs = list[dict[str, float]]


def median(runs: Runs, figure: str) -> float:
    """The median of a figure over the rounds."""
    return statistics.median(run[figure] for run in runs)


def ratio(theirs: Runs, ours: Runs, figure: str) -> float:
    """The median over rounds of the peer's figure by ours in the same round."""
    return statistics.median(t[figure] / o[figure] for t, o in zip(theirs, ours, strict=True))


def text(name: str, result: dict[str, Any]) -> str:
    """All settings of a workload: time, memory, and the peer's by ours."""
    runs, tokens, kind = result["runs"], result["tokens"], result["sizes"]["kind"]
    ours = [who for who in runs if who.startswith("posttrain")]
    heads = "".join(f"{'time x ' + who.split(' ', 1)[1]:>24}{'memory x':>10}" for who in ours)
    lines = [
        f"{name}: {tokens['distinct']:.0f} distinct tokens a step, {tokens['padded']:.0f} padded",
        f"{'':<28}{'s a step':>9}{'spread':>14}{'cpu s':>8}{'sampling':>9}{'MiB':>7}"
        f"{'above start':>12}{heads}",
    ]
    for who, row in runs.items():
        seconds = [run["seconds"] for run in row]
        sampling = f"{median(row, 'sampling_seconds'):.2f}" if "sampling_seconds" in row[0] else ""
        line = (
            f"{who:<28}{median(row, 'seconds'):>9.2f}{f'{min(seconds):.2f}-{max(seconds):.2f}':>14}"
        )
        line += f"{median(row, 'cpu_seconds'):>8.2f}{sampling:>9}{median(row, 'peak_mib'):>7.0f}"
        line += f"{median(row, 'above_mib'):>12.0f}"
        if who not in ours:
            for other in (runs[who] for who in ours):
                line += (
                    f"{ratio(row, other, 'seconds'):>24.2f}{ratio(row, other, 'peak_mib'):>10.2f}"
                )
        lines.append(line)
    for who in runs:
        if who not in ours:
            lines.append(f"  {who}: {label(result['settings'][who], kind)}")
    return "\n".join(lines)


def markdown(result: dict[str, Any]) -> str:
    """The README's tables of a result file: seconds, peak memory, and which settings the peer's
    best are.
    """
    shown = {name: result["workloads"][name] for name in TABLE if name in result["workloads"]}
    return "\n\n".join(
        [
            _machine(result, shown),
            _table(shown, "seconds", "best_time", "Seconds per step", lambda x: f"{x:.2f}"),
            _table(shown, "peak_mib", "best_memory", "Peak memory, MiB", lambda x: f"{x:,.0f}"),
        ]
    )


def _machine(result: dict[str, Any], shown: dict[str, Any]) -> str:
    machine, rates = result["machine"], result["matmul_gflops"]
    rounds = {name: len(next(iter(found["runs"].values()))) for name, found in shown.items()}
    most = max(rounds.values())
    fewer = [f"{WORKLOADS[name].title}: {count}" for name, count in rounds.items() if count < most]
    counts = f"{most} paired rounds" + (f" ({'; '.join(fewer)})" if fewer else "")
    return (
        f"{machine['cores']} cores of a shared {machine['processor']} (family "
        f"{machine['family']}, model "
        f"{machine['model']}; matrix products {rates['float32']:.0f} GFLOP/s in float32, "
        f"{rates['bfloat16']:.0f} in "
        f"bfloat16), {result['date']}, medians of {counts}."
    )


def _table(
    shown: dict[str, Any], figure: str, best: str, title: str, write: Callable[[float], str]
) -> str:
    head = [
        title,
        "posttrain float32",
        "posttrain bfloat16",
        PEERS["default"],
        PEERS[best],
        "default / ours",
        "best / ours",
    ]
    lines = [_line(head), _line(["---"] * len(head))]
    for name, found in shown.items():
        runs, columns = found["runs"], found["columns"]
        full, half = runs["posttrain fp32"], runs.get("posttrain bf16")
        peers = [runs[columns[column]] for column in ("default", best)]
        ours = [full] if half is None else [half, full]
        ratios = [" | ".join(f"{ratio(peer, side, figure):.2g}" for side in ours) for peer in peers]
        ratios = [
            text.replace(" | ", " (", 1) + ")" if half is not None else text for text in ratios
        ]
        cells = [
            write(median(full, figure)),
            write(median(half, figure)) if half is not None else "",
        ]
        lines.append(
            _line(
                [
                    WORKLOADS[name].title,
                    *cells,
                    *(write(median(peer, figure)) for peer in peers),
                    *ratios,
                ]
            )
        )
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
