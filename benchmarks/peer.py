"""posttrain beside TRL on the same rows, model folder and machine, alternating.

    .venv/bin/python benchmarks/peer.py [--pairs 3] [--only sft,grpo,sample]
    .venv/bin/python benchmarks/peer.py --only sft-0.6b,dpo-0.6b,grpo-0.6b,sample-0.6b      # on a
        GPU
    .venv/bin/python benchmarks/peer.py --table [RESULT]        # the README's table of a result
        file

The peer is installed in an environment of its own, benchmarks/.peer, at a pinned version. It runs
with its defaults and with its best settings by time and by memory, which sweep.py found. Every
measurement is a process of its own. In each round every setting of a workload runs once; ratios are
medians over rounds of the peer's figure by ours in the same round, so that what the machine does
meanwhile falls on both.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import machine
from processes import HERE, PINNED, install, measure_ours, measure_peer
from settings import DEFAULT, OURS, OURS_ALSO, SEEDS, Setting, normal
from sweep import newest
from table import END, START, markdown, median, text
from workloads import TABLE, WORKLOADS, Workload, as_json, rows_of_step, tokens_of

Measure = Callable[[Workload, Setting], dict[str, float]]


def our_settings(workload: Workload, half: bool) -> dict[str, Setting]:
    """Name and setting of our runs. half: whether the machine is made for bfloat16."""
    if workload.kind == "tokenise":
        return {"posttrain fp32": OURS[0]}
    chosen = [
        s for s in [*OURS, *OURS_ALSO.get(workload.name, [])] if half or s["precision"] == "fp32"
    ]
    if workload.device == "cuda":  # nobody trains in float32 there
        chosen = [s for s in chosen if s["precision"] != "fp32"]
    names = [
        s["precision"] + (f" {s['micro_tokens']:,}" if "micro_tokens" in s else "") for s in chosen
    ]
    return {f"posttrain {name}": setting for name, setting in zip(names, chosen, strict=True)}


def peer_settings(
    workload: Workload, sweep: dict[str, Any], half: bool
) -> tuple[dict[str, Setting], dict[str, str]]:
    """Name and setting of the peer's runs, and which run is its default and which its best by time
    and by memory.

    A workload without a sweep of its own takes the best of the one it resembles; on a GPU, where
    none was made, what keeps activations.
    """
    swept = sweep["workloads"]
    if workload.device == "cuda":
        best = {aim: {"checkpointing": False} for aim in ("seconds", "peak_mib")}
    else:
        like = SEEDS.get(workload.name, workload.kind)
        best = next(
            swept[name]["best"] for name in (workload.name, like, workload.kind) if name in swept
        )
        best = {aim: normal(setting, rows_of_step(workload)) for aim, setting in best.items()}
    chosen = {"default": DEFAULT, "best_time": best["seconds"], "best_memory": best["peak_mib"]}
    if not half and workload.kind not in ("sample", "tokenise"):
        chosen = {column: {**setting, "precision": "fp32"} for column, setting in chosen.items()}
    titles = {"default": "TRL default", "best_time": "TRL fastest", "best_memory": "TRL smallest"}
    settings: dict[str, Setting] = {}
    columns: dict[str, str] = {}
    for column, setting in chosen.items():
        same = next((name for name, other in settings.items() if other == setting), None)
        columns[column] = same or titles[column]
        settings.setdefault(columns[column], setting)
    return settings, columns


def compare(
    workload: Workload,
    sweep: dict[str, Any],
    pairs: int,
    half: bool,
    ours: Measure = measure_ours,
    theirs: Measure = measure_peer,
) -> dict[str, Any]:
    """All settings of a workload in rounds."""
    our, (their, columns) = our_settings(workload, half), peer_settings(workload, sweep, half)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (*our, *their)}
    for _ in range(min(pairs, workload.rounds)):
        for name, setting in our.items():
            runs[name].append(ours(workload, setting))
        for name, setting in their.items():
            runs[name].append(theirs(workload, setting))
    return {
        "sizes": as_json(workload),
        "tokens": tokens_of(workload),
        "settings": {**our, **their},
        "columns": {**columns, **best_columns({name: runs[name] for name in their})},
        "runs": runs,
    }


def best_columns(runs: dict[str, list[dict[str, float]]]) -> dict[str, str]:
    """Which of the peer's runs is best by time and by memory, as measured here and not in the
    sweep.
    """
    return {
        column: min(runs, key=lambda name: median(runs[name], figure))
        for column, figure in (("best_time", "seconds"), ("best_memory", "peak_mib"))
    }


def written(result: Path) -> str:
    """The README's part that comes from a result file, marks included.

    Raises:
        SystemExit: the file holds none of the table's workloads.
    """
    measured = json.loads(result.read_text())
    if not any(name in TABLE for name in measured["workloads"]):
        raise SystemExit(
            f"{result.name} holds {', '.join(measured['workloads'])}, none of which is in the "
            f"README's table ({', '.join(TABLE)}); name another file, --table FILE"
        )
    start = START.format(f"benchmarks/results/{result.name}")
    return f"{start}\n{markdown(measured)}\n{END}"


def main() -> None:
    """Run, print, and write results/."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument(
        "--install", action="store_true", help="make the peer's environment and do nothing else"
    )
    parser.add_argument(
        "--only", help=f"names, by comma: {', '.join(WORKLOADS)} (without it: {', '.join(TABLE)})"
    )
    parser.add_argument(
        "--sweep", type=Path, help="where the peer's best settings stand (default: the newest)"
    )
    parser.add_argument(
        "--table",
        nargs="?",
        const="",
        help="print the README's table of a result file (default: the newest)",
    )
    options = parser.parse_args()
    if options.table is not None:
        files = sorted((HERE / "results").glob("peer-*.json"))
        print(written(Path(options.table) if options.table else files[-1]))
        return
    names = options.only.split(",") if options.only else TABLE
    if unknown := [name for name in names if name not in WORKLOADS]:
        parser.error(f"there is no workload {unknown[0]}; there are {', '.join(WORKLOADS)}")
    if any(WORKLOADS[name].device == "cuda" for name in names) and machine.gpu_name() is None:
        parser.error("there is no CUDA device for the workloads of a GPU")
    install()
    if not options.install:
        run(names, options.sweep or newest(), options.pairs)


def target_of(names: list[str]) -> Path:
    """Where a comparison is written: toy sizes try the benchmarks and are no results."""
    toys = all(name.endswith("-tiny") for name in names)
    return HERE / (".work" if toys else "results") / f"peer-{date.today()}.json"


def run(names: list[str], sweep_file: Path, pairs: int) -> None:
    """Compare the workloads; the result is written after each."""
    sweep = json.loads(sweep_file.read_text())
    rates = machine.matmul_rates()
    half = rates["bfloat16"] > rates["float32"]
    print(
        f"matrix products: float32 {rates['float32']:.0f}, bfloat16 {rates['bfloat16']:.0f} "
        "GFLOP/s",
        flush=True,
    )
    target = target_of(names)
    result: dict[str, Any] = (
        json.loads(target.read_text()) if target.exists() else {"workloads": {}}
    )
    result |= {
        "date": str(date.today()),
        "command": "benchmarks/peer.py",
        "versions": PINNED,
        "sweep": sweep_file.name,
        "machine": machine.describe(),
        "gpu": machine.gpu_name(),
        "matmul_gflops": rates,
    }
    for name in names:
        result["workloads"][name] = compare(WORKLOADS[name], sweep, pairs, half)
        print("\n" + text(name, result["workloads"][name]), flush=True)
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten to {target}")


if __name__ == "__main__":
    main()
