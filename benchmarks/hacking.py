"""Is a weak reward model hacked, and what holds it? hacking.py best_of_n|rl [--seeds 0,1,2,3,4]
[--write]

The embedded model samples chains of arithmetic; the gold reward is the task's own verdict, which
chooses and trains nothing. Each seed draws its own problems. Four reward models are trained from
the embedded model, each on its own 24 pairs of a right and a wrong sample, a quarter of the labels
flipped.

best_of_n: the best of 1, 2, 4, ..., 32 of the same samples of 24 held-out problems, by one model,
by ensembles of all four, and by one model with regularised choices.

rl: GRPO against one model, the same with a KL penalty, and against the minimum of all four. Gold is
watched at every step.

Per seed the peak of gold and its value at the end; over seeds the paired difference of each arm
from the single model, with Student's t intervals.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from figures import HERE, half_of_seeds
from rich.console import Console

import posttrain as pt
from posttrain.rewards.model import RewardModel, combined

RESULTS = HERE / "results" / "hacking.json"
WORK = HERE / ".work" / "hacking"
NUM_MODELS, NUM_PAIRS, FLIPPED, NUM_SAMPLES, NUM_PROBLEMS = 4, 24, 0.25, 32, 24
SEARCH_WEIGHTS = {"kl": 0.01, "length": 0.05}
STEPS, BATCH, GROUP, RATE, KL_WEIGHT = 40, 8, 8, 3e-4, 0.05


def quiet() -> Console:
    """A console that shows nothing."""
    return Console(file=io.StringIO())


def chains(split: str, seed: int, number: int) -> Any:
    """Problems of two operations; each seed has its own."""
    return pt.task.arithmetic(num_steps=2, num_examples=number, split=split, seed=seed)


def pairs_of(rows: Sequence[Mapping[str, Any]], draw: random.Random) -> list[dict[str, Any]]:
    """A right and a wrong sample of each problem that has both; a share of the labels flipped."""
    by_prompt: dict[str, tuple[list[str], list[str]]] = {}
    for row in rows:
        sides = by_prompt.setdefault(row["prompt"], ([], []))
        sides[row["reward"] < 1].append(row["completion"])
    pairs = []
    for prompt, (right, wrong) in by_prompt.items():
        if right and wrong:
            two = [draw.choice(right), draw.choice(wrong)]
            if draw.random() < FLIPPED:
                two.reverse()
            pairs.append({"prompt": prompt, "chosen": two[0], "rejected": two[1]})
    return pairs


def reward_models(seed: int) -> list[Any]:
    """Models that were trained on pairs of their own."""
    draw = random.Random(seed)
    task = chains("train", seed, 2 * NUM_MODELS * NUM_PAIRS)
    rows = pt.sample("embedded", task, num_generations=4, seed=seed, console=quiet())
    pairs = pairs_of(list(rows), draw)
    draw.shuffle(pairs)
    if len(pairs) < NUM_MODELS * NUM_PAIRS:
        raise SystemExit(f"seed {seed}: only {len(pairs)} pairs")
    models = []
    for place in range(NUM_MODELS):
        some = pairs[place * NUM_PAIRS : (place + 1) * NUM_PAIRS]
        plan = pt.reward_model(some, learning_rate=1e-3, batch_size=8)
        result = pt.fit("embedded", plan, steps=9, seed=seed + place, console=quiet())
        models.append(result.model)
    return models


class Judges:
    """Scores of several reward models; a text is scored once, however often it is asked for."""

    def __init__(self, models: Sequence[Any]) -> None:
        self.scorers = [RewardModel(model, level="sequence") for model in models]
        self.known: dict[tuple[str, str], list[float]] = {}

    def table(self, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
        """Scores [models, completions]."""
        pairs = list(zip(prompts, completions, strict=True))
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self.known]
        if new:
            columns = [list(part) for part in zip(*new, strict=True)]
            rows = [scorer(*columns) for scorer in self.scorers]
            self.known |= dict(zip(new, (list(x) for x in zip(*rows, strict=True)), strict=True))
        return np.array([self.known[pair] for pair in pairs]).T

    def reward(self, ensemble: str | None = None) -> Any:
        """The reward of the first model, or of an ensemble of all."""

        def judged(prompts, completions) -> list[float]:
            table = self.table(prompts, completions)
            return [float(x) for x in (table[0] if ensemble is None else combined(table, ensemble))]

        return judged


def best_of_n(seed: int) -> dict[str, Any]:
    """Curves of all arms on the same samples."""
    judges = Judges(reward_models(seed))
    proxies = {"single": judges.reward()}
    for ensemble in ("mean", "min", "uncertainty"):
        proxies[f"ensemble {ensemble}"] = judges.reward(ensemble)
    result = pt.hacking(
        "embedded",
        chains("test", seed, NUM_PROBLEMS),
        proxies=proxies,
        gold="task",
        num_samples=NUM_SAMPLES,
        num_examples=NUM_PROBLEMS,
        kl_weights=[SEARCH_WEIGHTS["kl"]],
        length_weights=[SEARCH_WEIGHTS["length"]],
        seed=seed,
        limits=pt.Limits(reward_timeout_seconds=0.0),
    )
    arms = {}
    for curve in result.curves:
        gold = [p.gold.estimate for p in curve.points]
        arms[curve.name] = {
            "gold": gold,
            "proxy": [p.proxy.estimate for p in curve.points],
            "peak": math.log2(curve.peak),
            "fall": curve.fall.estimate,
            "last": gold[-1],
        }
    return arms


def rl(seed: int) -> dict[str, Any]:
    """Gold and proxy along short trainings against each arm's reward."""
    judges = Judges(reward_models(seed))
    settings = {
        "single": (judges.reward(), 0.0),
        "single, kl": (judges.reward(), KL_WEIGHT),
        "ensemble min": (judges.reward("min"), 0.0),
    }
    arms = {}
    for name, (reward, kl) in settings.items():
        losses: list[Any] = ["clipped", *([{"name": "kl", "weight": kl}] if kl else [])]
        plan = pt.grpo(
            chains("train", seed + 100, 400),
            rewards=[reward],
            losses=losses,
            num_generations=GROUP,
            batch_size=BATCH,
            learning_rate=RATE,
            watch=pt.Watch(gold=["task"], kl_every=1),
            limits=pt.Limits(reward_timeout_seconds=0.0),
        )
        result = pt.fit("embedded", plan, steps=STEPS, seed=seed, console=quiet())
        rows = [row for row in result.metrics if "watch/gold" in row]
        gold = smoothed([row["watch/gold"] for row in rows])
        peak = int(np.argmax(gold))
        arms[name] = {
            "gold": [row["watch/gold"] for row in rows],
            "proxy": [row["watch/proxy"] for row in rows],
            "kl": [row["watch/kl"] for row in rows],
            "peak": float(peak + 1),
            "peak_kl": rows[peak]["watch/kl"],
            "fall": float(gold[-1] - gold[peak]),
            "last": float(gold[-1]),
        }
    return arms


def smoothed(values: Sequence[float], width: int = 5) -> np.ndarray:
    """Means over the last `width` steps, so that a peak is no accident of one step."""
    return np.array([np.mean(values[max(0, i - width + 1) : i + 1]) for i in range(len(values))])


def summary(by_seed: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and paired differences from the single model."""
    seeds = list(by_seed.values())
    table = {}
    for name in seeds[0]:
        row: dict[str, Any] = {}
        for key in ("peak", "last", "fall"):
            values = np.array([arms[name][key] for arms in seeds])
            row[key] = t_interval(values)
            if name != "single" and key != "fall":
                base = np.array([arms["single"][key] for arms in seeds])
                row[f"{key} - single"] = t_interval(values - base)
        table[name] = row
    return table


def t_interval(values: np.ndarray) -> dict[str, float]:
    """Mean with Student's 95 % interval over seeds."""
    mean, half = float(values.mean()), half_of_seeds(values.tolist())
    return {"mean": mean, "low": mean - half, "high": mean + half}


def main() -> None:
    """Measure seed by seed; each is kept, so that an interrupted run goes on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["best_of_n", "rl"])
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--write", action="store_true", help="write results/hacking.json")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    by_seed = {}
    for seed in options.seeds.split(","):
        file = WORK / f"{options.part}-{seed}.json"
        if not file.exists():
            started = time.process_time()
            arms = (best_of_n if options.part == "best_of_n" else rl)(int(seed))
            values = {"arms": arms, "cpu_seconds": time.process_time() - started}
            file.write_text(json.dumps(values))
        by_seed[seed] = json.loads(file.read_text())["arms"]
        print(f"seed {seed}: { ({k: round(v['last'], 3) for k, v in by_seed[seed].items()}) }")
    table = summary(by_seed)
    for name, row in table.items():
        texts = [
            f"{k} {v['mean']:+.3f} [{v['low']:+.3f}, {v['high']:+.3f}]" for k, v in row.items()
        ]
        print(f"{name:<24} {'; '.join(texts)}")
    if options.write:
        before = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        before[options.part] = {"summary": table, "seeds": by_seed}
        RESULTS.write_text(json.dumps(before, indent=1) + "\n")


if __name__ == "__main__":
    main()
