"""The peer's best settings, found by trying them: `make bench-sweep`, once per machine.

    .venv/bin/python benchmarks/sweep.py [--only sft,dpo,grpo]

Coordinate-wise, one run a setting: each stage of settings.py changes one thing at a time on the
best setting so far, by time or by memory. A setting counts only if it trains the same: its weights
after the run are compared with those of the padded batch in float32, and may differ by rounding
alone: in bfloat16 by about as much as with TRL's defaults. Sampling differs from setting to
setting, so for GRPO the winners run again on completions that are made up. Batches by length hold
other rows in each step: they are measured, per token, and told apart.

The result, results/sweep-DATE.json, is what `make bench` takes the peer's best settings from.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import machine
from processes import HERE, PINNED, Failed, distance, folder_of, install, measure_ours, measure_peer
from settings import DEFAULT, PADDED, SEEDS, STAGES, SWEPT, Setting, Stage, key, label, normal
from workloads import WORKLOADS, Workload, rows_of_step

SAME = 0.02
"""The largest distance in float32 between two trainings that are the same, as a share of the
distance trained.
"""
ROUNDING = 1.5
"""In bfloat16: so many times as far from float32 as TRL's default is, whose rounding counts as
the same training.
"""
AIMS = ("seconds", "peak_mib")

Measure = Callable[[Setting], dict[str, Any]]


def explore(
    stages: list[Stage], starts: list[Setting], rows: int, measure: Measure
) -> list[dict[str, Any]]:
    """All runs of a sweep: the starts, then each stage's changes to the best so far.

    Args:
        measure: figures of a setting: seconds, peak_mib and `same` (whether it trains the same), or
        `error`.
    """
    runs: dict[str, dict[str, Any]] = {}

    def tried(setting: Setting) -> None:
        setting = normal(setting, rows)
        if key(setting) not in runs and rows % setting.get("micro", 1) == 0:
            runs[key(setting)] = {"setting": setting, **measure(setting)}

    for setting in starts:
        tried(setting)
    for stage in stages:
        base = best(list(runs.values()), stage.aim)["setting"]
        for change in stage.changes:
            if change.get("micro", 1) <= rows:
                tried({**base, **change})
    return list(runs.values())


def best(runs: list[dict[str, Any]], aim: str) -> dict[str, Any]:
    """The run with the least of `aim` among those that train the same."""
    return min((run for run in runs if run.get("same")), key=lambda run: run[aim])


def sweep(workload: Workload, seeds: list[Setting], show: Callable[[str], None]) -> dict[str, Any]:
    """The runs of a workload, with the names of the best by time and by memory."""
    rows = rows_of_step(workload)
    start = folder_of(workload) / "model" / "model.safetensors"
    compares = workload.kind in ("sft", "dpo", "reward")
    tokens = rounding = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        reference, ended = (
            Path(scratch) / "reference.safetensors",
            Path(scratch) / "weights.safetensors",
        )

        def measure(setting: Setting) -> dict[str, Any]:
            nonlocal tokens, rounding
            is_reference = compares and setting == normal(PADDED, rows)
            weights = reference if is_reference else ended if compares else None
            try:
                run: dict[str, Any] = dict(measure_peer(workload, setting, weights))
            except Failed as error:
                show(
                    f"  {label(setting, workload.kind)}: "
                    f"{str(error).strip().splitlines()[-1][:100]}"
                )
                return {"error": str(error)[-300:], "same": False}
            if is_reference:
                tokens = run["tokens"]
            if (
                "order" in setting
            ):  # the longest rows come first, among the steps that are not timed
                run["seconds"] *= tokens / run["tokens"]
            if compares:
                run["distance"] = 0.0 if is_reference else distance(ended, reference, start)
            if setting == DEFAULT:
                rounding = run.get("distance", 0.0)
            run["same"] = "order" not in setting and is_same(
                setting, run.get("distance", 0.0), rounding
            )
            show(_line(setting, workload.kind, run))
            return run

        # The padded batch comes first, as the others are compared with it.
        starts = [PADDED, DEFAULT] if compares else [DEFAULT]
        runs = explore(STAGES[workload.name], [*starts, *seeds], rows, measure)
        if workload.kind == "grpo":
            check_winners(workload, runs, Path(scratch), show)
        result: dict[str, Any] = {"runs": runs}
        if compares:
            measure_ours(workload, {"precision": "fp32"}, ended)
            result["distance_of_posttrain"] = distance(ended, reference, start)
            show(
                f"  posttrain float32: {result['distance_of_posttrain']:.1e} from the padded batch"
            )
    return {**result, "best": {aim: best(runs, aim)["setting"] for aim in AIMS}}


def check_winners(
    workload: Workload, runs: list[dict[str, Any]], scratch: Path, show: Callable[[str], None]
) -> None:
    """Compare the weights of the best settings on made-up completions, until the best ones
    train the same.
    """
    start = folder_of(workload) / "model" / "model.safetensors"
    reference, ended = scratch / "reference.safetensors", scratch / "weights.safetensors"
    measure_peer(workload, {**PADDED, "fixed": True}, reference)
    measure_peer(workload, {**DEFAULT, "fixed": True}, ended)
    rounding = distance(ended, reference, start)
    while unchecked := [run for run in (best(runs, aim) for aim in AIMS) if "distance" not in run]:
        run = unchecked[0]
        measure_peer(workload, {**run["setting"], "fixed": True}, ended)
        run["distance"] = distance(ended, reference, start)
        run["same"] = is_same(run["setting"], run["distance"], rounding)
        show(f"  compared: {_line(run['setting'], workload.kind, run)}")


def is_same(setting: Setting, apart: float, rounding: float) -> bool:
    """Whether weights that are `apart` from the padded batch's come from the same training.
    rounding: TRL's default's.
    """
    return apart <= (SAME if setting.get("precision") == "fp32" else max(SAME, ROUNDING * rounding))


def _line(setting: Setting, kind: str, run: dict[str, Any]) -> str:
    apart = f"  {run['distance']:.1e} from the padded batch" if "distance" in run else ""
    words = label(setting, kind) + ("" if run["same"] else " (does not train the same)")
    return f"  {run['seconds']:8.2f} s {run['peak_mib']:7.0f} MiB  {words}{apart}"


def newest() -> Path:
    """The sweep that was committed last.

    Raises:
        Failed: there is none.
    """
    files = sorted((HERE / "results").glob("sweep-*.json"))
    if not files:
        raise Failed(
            "there is no benchmarks/results/sweep-*.json; make one with `make bench-sweep`"
        )
    return files[-1]


def main() -> None:
    """Sweep, print, and write results/."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="names, by comma: " + ", ".join(STAGES))
    options = parser.parse_args()
    names = options.only.split(",") if options.only else SWEPT
    if unknown := [name for name in names if name not in STAGES]:
        parser.error(f"{unknown[0]} has no sweep; there are {', '.join(STAGES)}")
    install()
    target = HERE / "results" / f"sweep-{date.today()}.json"
    result: dict[str, Any] = (
        json.loads(target.read_text()) if target.exists() else {"workloads": {}}
    )
    result |= {"date": str(date.today()), "command": "benchmarks/sweep.py", "versions": PINNED}
    result |= {"machine": machine.describe(), "matmul_gflops": machine.matmul_rates()}
    for name in names:
        started = time.perf_counter()
        print(name, flush=True)
        before = result["workloads"].get(SEEDS.get(name, ""), {}).get("best", {})
        seeds = [before[aim] for aim in AIMS if before]
        result["workloads"][name] = sweep(
            WORKLOADS[name], seeds, lambda line: print(line, flush=True)
        )
        result["workloads"][name]["sweep_seconds"] = round(time.perf_counter() - started)
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {target}")


if __name__ == "__main__":
    main()
