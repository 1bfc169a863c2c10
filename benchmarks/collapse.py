"""Does self-training collapse, and do a few weak labels prevent it? collapse.py table|loop
[--seeds 0,1,2,3,4] [--arms a,b] [--tiny] [--write]

table: the simulation of `pt.simulate_collapse`, mean and standard deviation of the accuracy after
rounds 5, 10, 20 and 40 over the seeds, beside the closed form where there is one, and the rounds
until 2 % error beside ln(err_0 / eps) / -ln(1 - beta).

loop: `pt.weak_data` on the embedded model: chains of three operations, 6 rounds of 64 prompts, 4
samples each, 8 updates of 32 rows. Of the labels 30 % are right. Every arm of a seed sees the
same prompts; `random` and `hardest` buy the same number of labels, 12 a round. Accuracy is of 4
samples each of 100 held-out problems, before and after. Over seeds the differences hardest - random
and hardest - filter are paired, with Student's t intervals.

A run (arm, seed) that is in the results is not made again; one that was cut off goes on from its
last checkpoint. --tiny makes one round of 4 prompts, to see that it works.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from figures import half_of_seeds
from rich.console import Console

import posttrain as pt
from posttrain.loops.collapse_simulation import (
    collapse_table,
    expected_accuracy,
    rounds_to,
    simulate_collapse,
)

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "collapse.json"
WORK = HERE / ".work" / "collapse"
ROUNDS = (5, 10, 20, 40)
ARMS: dict[str, dict[str, Any]] = {
    "none": {"arm": "none"},
    "filter": {"arm": "filter"},
    "random": {"arm": "random"},
    "hardest": {"arm": "hardest"},
    "hardest, accumulated": {"arm": "hardest", "accumulate": True},
}
SIZES = {"num_rounds": 6, "steps_per_round": 8, "prompts_per_round": 64, "labels_per_round": 12}
TINY = {"num_rounds": 1, "steps_per_round": 1, "prompts_per_round": 4, "labels_per_round": 2}
CHAINS = {"num_steps": 3, "max_operand": 60, "max_value": 249}


def quiet() -> Console:
    """A console that shows nothing."""
    return Console(file=io.StringIO())


def table(seeds: list[int]) -> dict[str, Any]:
    """The simulated arms, and the rounds of the theorem."""
    arms = {}
    for name, rounds in collapse_table(seeds).items():
        arms[name] = {
            str(r): [round(float(np.mean(v)), 4), round(float(np.std(v, ddof=1)), 4)]
            for r, v in rounds.items()
        }
    closed = {
        f"beta {beta:g}, 10 % labelled, {arm}": [
            round(
                expected_accuracy(r, beta=beta, start=0.713, budget=0.1, hardest=arm == "hardest"),
                4,
            )
            for r in ROUNDS
        ]
        for beta in (0.05, 0.1, 0.3)
        for arm in ("hardest", "random")
    }
    needed = [
        simulate_collapse(budget=1.0, num_rounds=80, seed=seed).rounds_to(0.02) for seed in seeds
    ]
    known = [n for n in needed if n is not None]
    return {
        "seeds": seeds,
        "accuracy_mean_sd": arms,
        "closed_form": closed,
        "rounds_to_2_percent_error": {
            "mean": float(np.mean(known)),
            "seeds_that_reach_it": len(known),
            "theory": round(rounds_to(0.02, beta=0.1, start=0.713), 2),
            "bound": round(math.log(0.713 / 0.02) / 0.1, 2),
        },
    }


def one(arm: str, seed: int, *, tiny: bool) -> dict[str, Any]:
    """A run of the real loop."""
    sizes = TINY if tiny else SIZES
    task = pt.task.arithmetic(**CHAINS, num_examples=16 if tiny else 400, seed=seed)
    held_out = pt.task.arithmetic(
        **CHAINS, num_examples=4 if tiny else 100, split="test", seed=seed
    )
    plan = pt.weak_data(
        task,
        **ARMS[arm],
        **sizes,
        label_accuracy=0.3,
        num_generations=4,
        batch_size=32,
        learning_rate=2e-4,
    )
    folder = WORK / f"{arm.replace(', ', '_')}-{seed}{'-tiny' if tiny else ''}"
    if tiny:
        shutil.rmtree(folder, ignore_errors=True)
    start = time.process_time()
    resume = (folder / "recipe.yaml").exists()
    result = pt.fit("embedded", plan, output=folder, resume=resume, seed=seed, console=quiet())
    settings: dict[str, Any] = {"num_samples": 4, "num_examples": len(held_out.examples)}
    before, after = (
        pt.evaluate(model, held_out, seed=seed, console=quiet(), **settings)
        for model in ("embedded", result.model)
    )
    generations = [
        {k: v for k, v in row.items() if k.startswith(("collapse/", "labels/"))}
        for row in result.metrics
        if "collapse/accuracy" in row
    ]
    return {
        "before": accuracy_of(before),
        "after": accuracy_of(after),
        "generations": generations,
        "labels": sum(row.get("labels/bought", 0.0) for row in generations),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


def accuracy_of(evaluation: Any) -> float:
    """Mean accuracy of the samples."""
    return float(evaluation.accuracy().estimate)


def differences(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Paired differences of the accuracy after training, over the seeds that both arms have."""
    found = {}
    for one_arm, other in (("hardest", "random"), ("hardest", "filter"), ("filter", "none"),
                           ("hardest, accumulated", "hardest")):  # fmt: skip
        seeds = [s for s in runs.get(one_arm, {}) if s in runs.get(other, {})]
        values = [runs[one_arm][s]["after"] - runs[other][s]["after"] for s in seeds]
        if values:
            found[f"{one_arm} - {other}"] = {
                "mean": round(float(np.mean(values)), 4),
                "half_of_95_percent_interval": round(half_of_seeds(values), 4),
                "seeds": len(values),
                "labels": [runs[one_arm][s]["labels"] for s in seeds],
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("table", "loop"))
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--arms", default=";".join(ARMS), help="separated by ;")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.part == "table":
        results["table"] = table(seeds)
        print(json.dumps(results["table"], indent=1))
    else:
        runs = {} if options.tiny else results.setdefault("loop", {}).setdefault("runs", {})
        for seed in seeds:
            for arm in options.arms.split(";"):
                done = runs.setdefault(arm, {})
                if str(seed) in done:
                    continue
                done[str(seed)] = one(arm, seed, tiny=options.tiny)
                print(arm, seed, json.dumps(done[str(seed)]), flush=True)
                if options.write and not options.tiny:
                    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(json.dumps(differences(runs), indent=1))
        if not options.tiny:
            results["loop"]["differences"] = differences(runs)
    if options.write and not options.tiny:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
