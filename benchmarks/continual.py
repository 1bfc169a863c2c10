"""Methods against forgetting on a sequence of four small tasks, over seeds.

    .venv/bin/python benchmarks/continual.py [--seeds 5] [--steps 60] [--only NAME ...]

The embedded model learns four tasks one after the other by SFT on worked examples: sums, sorting,
reversing a word, and the letters between two letters. Every method is measured on held-out problems
of all four after each stage. Differences to the baseline are paired over seeds: Student's interval
of backward transfer (BWT) and of mean accuracy in the end (AP). Results go to
benchmarks/results/continual.json. Runs that are there are not run again.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

from machine import describe
from rich.console import Console

import posttrain as pt
from posttrain.evaluation.continual import over_seeds, paired_over_seeds
from posttrain.files import write_text_whole

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "benchmarks" / "results" / "continual.json"
LETTERS = "abcdefghijklmnopqrstuvwxyz"
RATE = 1e-3
LORA_RATE = 5e-3

METHODS: dict[str, Any] = {
    "naive": "naive",
    "joint": "joint",
    "replay_10": {"name": "replay", "share": 0.1},
    "replay_25": {"name": "replay", "share": 0.25},
    "on_policy_replay_25": {"name": "on_policy_replay", "share": 0.25},
    "self_synthesised_25": {"name": "on_policy_replay", "share": 0.25, "min_reward": None},
    "ewc": {"name": "ewc", "weight": 3000.0},
    "ewc_online": {"name": "ewc", "weight": 3000.0, "decay": 1.0},
    "l2_to_stages": {"name": "l2_to_stages", "weight": 1.0},
    "lwf": {"name": "lwf", "weight": 1.0},
    "agem": "agem",
    "gem": "gem",
    "wise_ft": {"name": "wise_ft", "alpha": 0.5},
}
WITH_LORA: dict[str, Any] = {
    "lora_naive": "naive",
    "lora_o_lora": {"name": "o_lora", "weight": 0.5},
    "lora_ogd": {"name": "ogd", "num_directions": 16},
    "lora_replay_25": {"name": "replay", "share": 0.25},
}


def rows_of(kind: str, number: int, seed: int) -> list[dict[str, str]]:
    """Different problems of a kind, with their answers."""
    draw = random.Random(f"{kind} {seed}")
    rows: dict[str, str] = {}
    while len(rows) < number:
        if kind == "sums":
            a, b = draw.randint(10, 99), draw.randint(10, 99)
            prompt, answer = f"{a} + {b} = ", str(a + b)
        elif kind == "sorting":
            numbers = [draw.randint(0, 99) for _ in range(4)]
            prompt = f"sort: {' '.join(map(str, numbers))}\n"
            answer = " ".join(map(str, sorted(numbers)))
        elif kind == "reversing":
            word = "".join(draw.choice(LETTERS) for _ in range(3))
            prompt, answer = f"reverse: {word}\n", word[::-1]
        else:
            first = draw.randrange(20)
            last = draw.randrange(first + 2, min(first + 7, 26))
            prompt = f"from {LETTERS[first]} to {LETTERS[last]} {draw.randint(1, 999)}\n"
            answer = LETTERS[first : last + 1]
        rows[prompt] = answer
    return [{"prompt": p, "completion": a + "\n", "answer": a} for p, a in rows.items()]


def parts_of(kind: str) -> tuple[Any, Any]:
    """Training and held-out tasks of a kind; no problem is in both."""
    rows = rows_of(kind, 600, 0)
    parts = []
    for part in (rows[:500], rows[500:]):
        options: Any = {"extract": _first_line, "score": _score, "max_tokens": 24, "stop": ("\n",)}
        task = pt.make_task(part, name=kind, completion_column="completion", **options)
        parts.append(task)
    return parts[0], parts[1]


def _score(completion: str, example: Any) -> float:
    return float(_first_line(completion) == example.answer)


def _first_line(completion: str) -> str | None:
    return completion.strip().split("\n")[0] or None


def measured(name: str, seed: int, steps: int) -> dict[str, float]:
    """AP, BWT and what else a sequence gives."""
    lora = name in WITH_LORA
    kinds = ["sums", "sorting", "reversing", "between"]
    random.Random(seed).shuffle(kinds)
    stages, suites = {}, {}
    for kind in kinds:
        train, suites[kind] = parts_of(kind)
        stages[kind] = pt.sft(
            task=train,
            batch_size=16,
            learning_rate=LORA_RATE if lora else RATE,
            lr_scheduler_type="constant_with_warmup",
        )
    model = pt.load("embedded", **({"lora": pt.LoRA(r=8), "seed": seed} if lora else {}))
    result = pt.continual(
        model,
        stages,
        retention={**METHODS, **WITH_LORA}[name],
        suites=suites,
        steps=steps,
        num_examples=100,
        sampling={"temperature": 0.0},
        seed=100 * seed,
        console=Console(quiet=True),
    )
    return {**result.metrics(), "matrix": result.scores.tolist()}  # type: ignore[dict-item]


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds with intervals, and differences to the baseline, paired."""
    table: dict[str, Any] = {}
    for name, by_seed in runs.items():
        base = runs.get("lora_naive" if name in WITH_LORA else "naive", {})
        row: dict[str, Any] = {"seeds": len(by_seed)}
        for measure in ("AP", "BWT"):
            values = [by_seed[s][measure] for s in sorted(by_seed)]
            if len(values) > 1:
                x = over_seeds(values)
                row[measure] = [x.estimate, x.low, x.high]
            both = sorted(by_seed.keys() & base.keys())
            if name not in ("naive", "lora_naive") and len(both) > 1:
                d = paired_over_seeds(
                    [base[s][measure] for s in both], [by_seed[s][measure] for s in both]
                )
                row[f"{measure} - naive"] = [d.estimate, d.low, d.high, d.p_value]
        table[name] = row
    return table


def main() -> None:
    """Run what is not there, and write after each sequence."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", action="append", help="a method; may be repeated")
    parser.add_argument("--output", type=Path, default=FILE)
    options = parser.parse_args()
    held = json.loads(options.output.read_text()) if options.output.is_file() else {}
    runs = held.get("runs", {}) if held.get("steps") == options.steps else {}
    for seed in range(options.seeds):
        for name in options.only or [*METHODS, *WITH_LORA]:
            done = runs.setdefault(name, {})
            if str(seed) in done:
                continue
            done[str(seed)] = measured(name, seed, options.steps)
            print(seed, name, {k: round(done[str(seed)][k], 3) for k in ("AP", "BWT")}, flush=True)
            values = {
                "machine": describe(),
                "command": "benchmarks/continual.py",
                "steps": options.steps,
                "summary": summary(runs),
                "runs": runs,
            }
            write_text_whole(options.output, json.dumps(values, indent=1))
    for name, row in summary(runs).items():
        print(name, json.dumps(dict(row.items())))


if __name__ == "__main__":
    main()
