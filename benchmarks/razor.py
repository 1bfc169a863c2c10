"""Does RL forget less than SFT, and does KL on the new task predict forgetting?

    .venv/bin/python benchmarks/razor.py [--seeds 5] [--table]

The embedded model learns chains of two operations, in four ways: GRPO on the task's verdict, SFT on
answers in the format of its own pretraining, SFT on answers in another format (both end in the same
line), and SFT on the model's own right samples. Along each training are measured on held-out
problems: accuracy at temperature 1 on the new task and on old ones (sorting, and chains of one
operation), and the KL divergences from the base model on the new task's prompts (arXiv 2509.04259,
"RL's Razor").

at equal accuracy   change of each old accuracy from the base model, where the new accuracy first
                    reaches 80 %, and 45 %: linear between two checkpoints. Paired by seed.
prediction          R^2 of a quadratic fit of forgetting over all checkpoints of all trainings of a
                    seed, on forward KL, reverse KL, and the distance of the weights.

Intervals are Student's, over seeds. Results go to results/razor.json as they come.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

import posttrain as pt
from posttrain.evaluation.divergence import divergence
from posttrain.evaluation.statistics import paired_t, t_interval
from posttrain.files import write_text_whole
from posttrain.types import Sampling

RESULTS = Path(__file__).resolve().parent / "results" / "razor.json"
DIFFICULTY = {"num_steps": 2, "max_operand": 20, "max_value": 99}
OLD: dict[str, Any] = {
    "sorting": pt.task.sorting(num_examples=200, num_numbers=5, seed=77),
    "one operation": pt.task.arithmetic(num_steps=1, num_examples=200, split="test"),
}
NEW = pt.task.arithmetic(**DIFFICULTY, num_examples=200, split="test")
STEPS = {"grpo": (2, 5, 10, 20, 40), "sft": (2, 4, 8, 16, 32, 64, 96)}
LEVELS = (0.8, 0.45)
PREDICTORS = ("forward_kl", "reverse_kl", "distance")


def plans(seed: int) -> dict[str, Any]:
    """The trainings, by name."""
    problems = pt.task.arithmetic(**DIFFICULTY, num_examples=1000, seed=seed)
    settings: dict[str, Any] = {
        "batch_size": 16,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "constant",
    }
    rows = [{"prompt": e.prompt, "completion": e.completion} for e in problems.examples]
    sampled = pt.sample("embedded", problems, num_generations=8, min_reward=1.0, seed=seed)
    own = [{"prompt": row["prompt"], "completion": row["completion"]} for row in sampled]
    return {
        "grpo": pt.grpo(
            problems,
            losses=[{"name": "clipped", "aggregation": "sequence_mean"}],
            num_generations=8,
            batch_size=16,
            learning_rate=2e-4,
            lr_scheduler_type="constant",
        ),
        "sft": pt.sft(rows, **settings),
        "sft, other format": pt.sft([other_format(row) for row in rows], **settings),
        "sft, own samples": pt.sft(own, **settings),
    }


def other_format(row: dict[str, str]) -> dict[str, str]:
    """The working in other words; the last line stays."""
    *lines, last = row["completion"].strip().split("\n")
    working = ", then ".join(" gives ".join(line.split("=")) for line in lines)
    return {"prompt": row["prompt"], "completion": f" {working}\n{last}"}


def measured(model: Any, base: Any, prompts: list[tuple[int, ...]]) -> dict[str, float]:
    """Accuracies, divergences, and the distance of the weights."""
    accuracies = {
        name: pt.evaluate(model, task, num_samples=2).accuracy().estimate
        for name, task in {"new": NEW, **OLD}.items()
    }
    d = divergence(base, model, prompts, Sampling(max_tokens=NEW.max_tokens or 64))
    pairs = zip(base.hf.parameters(), model.hf.parameters(), strict=True)
    squares = sum(float((a.detach() - b.detach()).double().square().sum()) for a, b in pairs)
    return {
        **accuracies,
        "old": statistics.fmean(accuracies[name] for name in OLD),
        "forward_kl": d.forward.estimate,
        "reverse_kl": d.reverse.estimate,
        "distance": squares**0.5,
    }


def curve(plan: Any, seed: int, steps: tuple[int, ...], base: Any) -> list[dict[str, float]]:
    """What a training reaches at some of its steps."""
    model = pt.load("embedded", dtype="float32")
    prompts = [tuple(model.tokenizer.encode(e.prompt)) for e in NEW.examples[:64]]
    points: list[dict[str, float]] = []

    def measure(step: int, metrics: dict[str, float]) -> None:
        if step in steps:
            points.append({"step": step, **measured(model, base, prompts)})

    pt.fit(
        model,
        plan,
        steps=steps[-1],
        seed=seed,
        hooks=[measure],
        adam_beta2=0.95,
    )
    return points


def change_at(held: dict[str, Any], name: str, level: float, key: str) -> float | None:
    """Change of a value where the new accuracy first reaches a level; None if it never does."""
    before = held["start"]
    for point in held["arms"][name]:
        if point["new"] >= level:
            share = (level - before["new"]) / (point["new"] - before["new"])
            return float(before[key] + share * (point[key] - before[key]) - held["start"][key])
        before = point
    return None


def explained(points: list[dict[str, float]], start: dict[str, float], key: str) -> float:
    """R^2 of forgetting ~ a + b x + c x^2, where x is the square root of a divergence."""
    forgetting = np.array([start["old"] - p["old"] for p in points])
    x = np.array([p[key] for p in points])
    if key != "distance":
        x = np.sqrt(np.maximum(x, 0))
    design = np.stack([np.ones_like(x), x, x * x], axis=1)
    fitted = design @ np.linalg.lstsq(design, forgetting, rcond=None)[0]
    total = float(((forgetting - forgetting.mean()) ** 2).sum())
    return 1 - float(((forgetting - fitted) ** 2).sum()) / total if total else float("nan")


STEPS_OF = {
    name: STEPS["grpo" if name == "grpo" else "sft"]
    for name in ("grpo", "sft", "sft, other format", "sft, own samples")
}


def summary(seeds: dict[str, Any]) -> dict[str, Any]:
    """Both claims over the seeds that have all trainings."""
    held = [h for h in seeds.values() if len(h["arms"]) == len(STEPS_OF)]
    points = [[p for arm in h["arms"].values() for p in arm] for h in held]
    return {
        "seeds": len(held),
        "start": {k: statistics.fmean(h["start"][k] for h in held) for k in ("new", *OLD)},
        "at equal accuracy": {
            f"{level:.0%}": {name: at_level(held, name, level) for name in STEPS_OF}
            for level in LEVELS
        },
        "prediction": {
            key: interval(
                [explained(p, h["start"], key) for p, h in zip(points, held, strict=True)]
            )
            for key in PREDICTORS
        },
    }


def at_level(held: list[dict[str, Any]], name: str, level: float) -> dict[str, Any]:
    """Changes of old accuracies, and their difference from those of GRPO, paired by seed."""
    row: dict[str, Any] = {}
    for key in (*OLD, *PREDICTORS):
        own = [change_at(h, name, level, key) for h in held]
        base = [change_at(h, "grpo", level, key) for h in held]
        both = [(x, y) for x, y in zip(own, base, strict=True) if x is not None and y is not None]
        if len(both) < 2:
            return {"reached": len(both)}
        row[key] = interval([x for x, _ in both])
        if name != "grpo" and key in OLD:
            d = paired_t([x for x, _ in both], [y for _, y in both])
            row[f"{key}: grpo - this"] = [d.estimate, d.low, d.high, d.p_value]
    return {"reached": len(both), **row}


def interval(values: list[float]) -> list[float]:
    """Mean and 95 % interval."""
    x = t_interval(values)
    return [x.estimate, x.low, x.high]


def main() -> None:
    """Run what is missing; write after each seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--table", action="store_true", help="show what is there")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    path = options.output
    results = json.loads(path.read_text()) if path.is_file() else {"seeds": {}}
    base = pt.load("embedded", dtype="float32")
    for seed in range(0 if options.table else options.seeds):
        held = results["seeds"].setdefault(str(seed), {"arms": {}})
        if "start" not in held:
            prompts = [tuple(base.tokenizer.encode(e.prompt)) for e in NEW.examples[:64]]
            held["start"] = measured(base, base, prompts)
        if all(name in held["arms"] for name in STEPS_OF):
            continue
        for name, plan in plans(seed).items():
            if name not in held["arms"]:
                held["arms"][name] = curve(plan, seed, STEPS_OF[name], base)
                print(seed, name, held["arms"][name][-1], flush=True)
                write_text_whole(path, json.dumps(results, indent=1) + "\n")
    results |= {"machine": describe(), "summary": summary(results["seeds"])}
    if not options.table:
        write_text_whole(path, json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["summary"], indent=1))


if __name__ == "__main__":
    main()
