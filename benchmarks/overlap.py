"""GRPO whose completions are sampled in another process, beside GRPO in turn.

    .venv/bin/python benchmarks/overlap.py [--seeds 5] [--steps 20]
    .venv/bin/python benchmarks/overlap.py --table

Both train the embedded model on the task of recipes/policy_gradient/grpo.yaml, with one thread for
each process: in turn is one process, overlapped are two (overlap: {max_staleness: 1}, with
importance weights truncated at 3). Runs are paired by seed, and which comes first alternates.

    seconds per step    mean over the steps behind the second one, which have no start of a process
    accuracy            of the trained model on held-out problems, 2 samples each

Ratios and differences are over seeds, with Student's 95 % intervals. The machine's load before each
run is kept beside it: on a machine that others use too, seconds are those of a share of its cores.
Results go to results/overlap.json as they come.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from machine import describe

RESULTS = Path(__file__).resolve().parent / "results" / "overlap.json"
TASK = {"name": "arithmetic", "num_steps": 2, "max_operand": 20, "max_value": 99}
NUM_PROBLEMS, NUM_SAMPLES, FIRST = 200, 2, 2
OVERLAP: dict[str, Any] = {
    "overlap": {"max_staleness": 1, "num_threads": 1},
    "credit": {"importance_correction": "token_truncate"},
}
ARMS: dict[str, dict[str, Any]] = {"in turn": {}, "overlapped": OVERLAP}

Run = dict[str, Any]


def run(settings: dict[str, Any], seed: int, steps: int) -> Run:
    """Train once and measure: seconds, accuracy, staleness."""
    import posttrain as pt

    load = os.getloadavg()[0]
    model = pt.load("embedded", dtype="float32")
    sections = {"overlap": pt.Overlap, "credit": pt.Credit}
    plan = pt.grpo(
        {**TASK, "num_examples": 400},
        losses=[{"name": "clipped", "aggregation": "sequence_mean"}],
        num_generations=8,
        num_minibatches=2,
        batch_size=16,
        learning_rate=1e-4,
        **{name: sections[name](**values) for name, values in settings.items()},
    )
    result = pt.fit(model, plan, steps=steps, seed=seed, adam_beta2=0.95)
    held_out = {**TASK, "num_examples": NUM_PROBLEMS, "split": "test"}
    measured = pt.evaluate(model, held_out, num_samples=NUM_SAMPLES)
    rows = [row for row in result.metrics if row["step"] > FIRST]
    names = ("step_time", "sampling/staleness/mean", "sampling/staleness/max")
    names += ("sampling/trainer_wait_seconds", "sampling/engine_wait_seconds")
    means = {n: statistics.fmean(row[n] for row in rows) for n in names if n in rows[0]}
    return {
        "load": load,
        "accuracy": measured.accuracy().estimate,
        "reward": rows[-1]["reward"],
        **means,
    }


def summary(runs: dict[str, dict[str, Run]]) -> dict[str, Any]:
    """Ratios of seconds and differences of accuracy over the seeds that have both."""
    from posttrain.evaluation.statistics import paired_t, t_interval

    seeds = [seed for seed, arms in runs.items() if len(arms) == len(ARMS)]
    turn, over = ([runs[seed][arm] for seed in seeds] for arm in ARMS)
    ratios = [b["step_time"] / a["step_time"] for a, b in zip(turn, over, strict=True)]
    ratio = t_interval(ratios)
    gained = paired_t([a["accuracy"] for a in turn], [b["accuracy"] for b in over])
    return {
        "seeds": len(seeds),
        "seconds per step": {
            arm: statistics.fmean(r["step_time"] for r in rows)
            for arm, rows in zip(ARMS, (turn, over), strict=True)
        },
        "ratio of seconds": [ratio.estimate, ratio.low, ratio.high],
        "accuracy": {
            arm: statistics.fmean(r["accuracy"] for r in rows)
            for arm, rows in zip(ARMS, (turn, over), strict=True)
        },
        "difference of accuracy": [gained.estimate, gained.low, gained.high],
        "load": statistics.fmean(r["load"] for r in [*turn, *over]),
    }


def table(results: dict[str, Any]) -> str:
    """The summary as a table."""
    s = results["summary"]
    lines = ["| | in turn | overlapped | overlapped against in turn (95 %) |", "|---|---|---|---|"]
    seconds, accuracy = s["seconds per step"], s["accuracy"]
    ratio, gained = s["ratio of seconds"], s["difference of accuracy"]
    lines.append(
        f"| seconds per step | {seconds['in turn']:.2f} | {seconds['overlapped']:.2f} | "
        f"x {ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f}) |"
    )
    lines.append(
        f"| accuracy | {accuracy['in turn']:.1%} | {accuracy['overlapped']:.1%} | "
        f"{gained[0]:+.1%} ({gained[1]:+.1%} to {gained[2]:+.1%}) |"
    )
    lines.append(f"\n{s['seeds']} seeds; mean load of the machine before a run {s['load']:.1f}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args(arguments)
    results: dict[str, Any] = {"runs": {}}
    if options.results.exists():
        results = json.loads(options.results.read_text())
    if not options.table:
        import torch

        torch.set_num_threads(1)
        results |= {"machine": describe(), "steps": options.steps}
        for seed in range(options.seeds):
            arms = list(ARMS.items())
            for name, settings in arms if seed % 2 == 0 else arms[::-1]:
                kept = results["runs"].setdefault(str(seed), {})
                if name not in kept:
                    kept[name] = run(settings, seed, options.steps)
                    options.results.write_text(json.dumps(results, indent=1) + "\n")
            results["summary"] = summary(results["runs"])
            options.results.write_text(json.dumps(results, indent=1) + "\n")
    if "summary" in results:
        print(table(results))
    return results


if __name__ == "__main__":
    main()
