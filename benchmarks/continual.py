"""Methods against forgetting on a sequence of four small tasks, over seeds.

    .venv/bin/python benchmarks/continual.py [--seeds 5] [--steps 60] [--only NAME ...]
    .venv/bin/python benchmarks/continual.py --data FOLDER --model MODEL [--steps 150]

The embedded model learns four tasks one after the other by SFT: of four numbers it names the
largest, the second or the last, or it writes them backwards. With --data, a folder with the O-LoRA
benchmark, a model learns to name the labels of news, encyclopedia, reviews of films and of goods;
sentences are cut to 160 characters. Every method is measured on held-out problems of all four after
each stage. The order of the tasks is drawn by the seed. Differences to the baseline are paired over
seeds: Student's interval of backward transfer (BWT) and of mean accuracy in the end (AP). Results
go to benchmarks/results/continual.json, or continual_labels.json with --data. Runs that are there
are not run again.
"""

from __future__ import annotations

import argparse
import gzip
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
RESULTS = ROOT / "benchmarks" / "results"
KINDS = ("largest", "second", "last", "backwards")
LABELLED = ("agnews", "dbpedia", "SST-2", "amazon")
RATE = 5e-4
LORA_RATE = 2e-3
LORA = pt.LoRA(r=16, alpha=32)

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


def rows_of(kind: str, number: int) -> list[dict[str, str]]:
    """Different problems of a kind, with their answers."""
    draw = random.Random(kind)
    rows: dict[str, str] = {}
    while len(rows) < number:
        numbers = [draw.randint(0, 99) for _ in range(4)]
        answer = {
            "largest": [max(numbers)],
            "second": [numbers[1]],
            "last": [numbers[-1]],
            "backwards": numbers[::-1],
        }[kind]
        rows[f"{kind}: {' '.join(map(str, numbers))}\n"] = " ".join(map(str, answer))
    return [{"prompt": p, "completion": a + "\n", "answer": a} for p, a in rows.items()]


def labelled_rows(folder: Path, number: int) -> list[dict[str, str]]:
    """Sentences of a set of the O-LoRA benchmark with their labels."""
    file = next(f for part in ("train", "test") for f in sorted(folder.glob(f"{part}.json*")))
    raw = file.read_bytes()
    rows: dict[str, str] = {}
    for row in json.loads(gzip.decompress(raw) if file.suffix == ".gz" else raw):
        sentence = " ".join(row["sentence"].split())[:160]
        rows.setdefault(f"{sentence}\nLabel:", row["label"])
    drawn = random.Random(folder.name).sample(sorted(rows.items()), number)
    return [{"prompt": p, "completion": f" {a}\n", "answer": a} for p, a in drawn]


def parts_of(kind: str, data: Path | None) -> tuple[Any, Any]:
    """Training and held-out tasks of a kind; no problem is in both."""
    rows = labelled_rows(data / kind, 1700) if data else rows_of(kind, 1700)
    parts = []
    for part in (rows[:-100], rows[-100:]):
        options: Any = {"extract": _first_line, "score": _score, "max_tokens": 24, "stop": ("\n",)}
        task = pt.make_task(part, name=kind, completion_column="completion", **options)
        parts.append(task)
    return parts[0], parts[1]


def _score(completion: str, example: Any) -> float:
    return float(_first_line(completion) == example.answer)


def _first_line(completion: str) -> str | None:
    return completion.strip().split("\n")[0] or None


def measured(name: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """AP, BWT and what else a sequence gives."""
    lora = name in WITH_LORA
    kinds = list(LABELLED if options.data else KINDS)
    random.Random(seed).shuffle(kinds)
    stages, suites = {}, {}
    for kind in kinds:
        train, suites[kind] = parts_of(kind, options.data)
        stages[kind] = pt.sft(
            task=train,
            batch_size=16,
            learning_rate=LORA_RATE if lora else RATE,
            lr_scheduler_type="constant_with_warmup",
        )
    adapters: dict[str, Any] = {"lora": LORA, "seed": seed} if lora else {}
    model = pt.load(options.model, dtype="float32", **adapters)
    result = pt.continual(
        model,
        stages,
        retention={**METHODS, **WITH_LORA}[name],
        suites=suites,
        steps=options.steps,
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
    parser.add_argument("--data", type=Path, help="a folder with the O-LoRA benchmark's sets")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    name_of_file = "continual_labels.json" if options.data else "continual.json"
    options.output = options.output or RESULTS / name_of_file
    held = json.loads(options.output.read_text()) if options.output.is_file() else {}
    runs = held.get("runs", {}) if held.get("steps") == options.steps else {}
    for seed in range(options.seeds):
        for name in options.only or [*METHODS, *WITH_LORA]:
            done = runs.setdefault(name, {})
            if str(seed) in done:
                continue
            done[str(seed)] = measured(name, seed, options)
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
