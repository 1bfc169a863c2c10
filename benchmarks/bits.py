"""Fingerprints of short runs over all families, to show that a change keeps every bit.

    python benchmarks/bits.py record before.json [--only NAME ...]     before the change
    python benchmarks/bits.py record after.json                        after it
    python benchmarks/bits.py compare before.json after.json

Each case is a recipe of a few steps on the embedded model, run by the command line in a process
of one thread. Recorded are the SHA-256 of every weight file below the run's folder, of the metrics
without durations, of the rollouts, of sampled rows, and of the evaluation. Equal fingerprints are
expected on one machine with one version of PyTorch; other machines round differently.
About four minutes of one CPU core.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

TIMED = ("step_time", "tokens_per_second", "memory/", "seconds")
PROBLEMS = {"name": "arithmetic", "num_steps": 2, "max_operand": 20, "max_value": 99}
TASK = {**PROBLEMS, "num_examples": 60}
TEST = {"task": {**PROBLEMS, "split": "test", "num_examples": 20}, "num_examples": 20}
SHORT = {"batch_size": 4, "max_steps": 3, "learning_rate": 2.0e-4}
GROUPS = {"task": TASK, "num_generations": 4, **SHORT}
PAIRS = {"method": "dpo", "data": "{pairs}", **SHORT}

CASES: dict[str, dict[str, Any]] = {
    "sft": {"method": "sft", "data": "{rows}", "eval_data": "{rows}", "eval_every": 2, **SHORT},
    "sft_task": {"method": "sft", "task": TASK, "evaluation": TEST, **SHORT},
    "sft_text": {"method": "sft", "data": "{text}", "neftune_noise_alpha": 5.0, **SHORT},
    "lora": {"method": "sft", "data": "{rows}", "model.lora": {"r": 4, "use_dora": True}, **SHORT},
    "pissa": {"method": "sft", "data": "{rows}", "model.lora": {"r": 4, "init": "pissa"}, **SHORT},
    "prefix": {"method": "sft", "data": "{rows}", "model.adapter": "prefix", **SHORT},
    "dpo": {**PAIRS, "eval_data": "{pairs}", "evaluation": TEST, "eval_every": 2},
    "dpo_cached": {**PAIRS, "cache_reference": True},
    "dpo_moving": {**PAIRS, "reference_every": 2},
    "simpo": {**PAIRS, "losses": ["simpo", {"name": "chosen_nll", "weight": 0.5}]},
    "kto": {"method": "kto", "data": "{labelled}", **SHORT},
    "listwise": {"method": "listwise", "data": "{lists}", **SHORT},
    "grpo": {"method": "grpo", "evaluation": TEST, "eval_every": 2, **GROUPS},
    "dapo": {
        "method": "grpo",
        "losses": [{"name": "clipped", "clip_high": 0.28, "aggregation": "token_mean"}],
        "mask_truncated": True,
        "max_resamples": 2,
        "num_minibatches": 2,
        **GROUPS,
    },
    "grpo_kl": {
        "method": "grpo",
        "rewards": ["task", {"name": "length", "weight": 0.1}],
        "losses": ["clipped", {"name": "kl", "weight": 0.04}],
        "model.lora": {"r": 4},
        **GROUPS,
    },
    "mixer": {
        "method": "grpo",
        "losses": ["reinforce", {"name": "given_nll", "weight": 1.0}],
        "given_steps": 4,
        **GROUPS,
    },
    "trpo": {
        "method": "grpo",
        "losses": ["surrogate"],
        "trust_region": {"max_kl": 0.003, "num_solves": 3},
        **GROUPS,
    },
    "ppo": {"method": "ppo", **GROUPS},
    "ppo_ptx": {
        "method": "ppo",
        "mix_data": "{rows}",
        "mix_batch_size": 2,
        "losses": ["clipped", {"name": "value", "weight": 0.5}, "given_nll"],
        **GROUPS,
    },
    "online_dpo": {"method": "online_dpo", **GROUPS},
    "spin": {"method": "spin", "task": TASK, "num_rounds": 2, **SHORT, "max_steps": 4},
    "star": {
        "method": "self_training",
        "task": TASK,
        "num_rounds": 2,
        "steps_per_round": 2,
        "min_reward": 0.0,
        "restart": True,
        "batch_size": 4,
        "learning_rate": 2.0e-4,
    },
    "offline": {"method": "offline", "data": "{rewarded}", **SHORT},
    "reward_model": {
        "method": "reward_model",
        "data": "{pairs}",
        "eval_data": "{pairs}",
        **SHORT,
    },
    "distill": {
        "method": "distill",
        "teacher": "embedded",
        "task": TASK,
        "losses": [{"name": "jsd", "beta": 0.5}],
        "lmbda": 0.5,
        **SHORT,
    },
    "sample": {"method": "sample", "task": {**TASK, "num_examples": 8}, "num_generations": 4},
    "vote": {
        "method": "evaluate",
        "evaluation": TEST,
        "search": {"name": "majority_vote", "num_samples": 4},
    },
    "pipeline": {
        "method": "pipeline",
        "evaluation": TEST,
        "stages": [
            {"name": "base", "method": "evaluate"},
            {"name": "sft", "method": "sft", "task": TASK, **SHORT},
            {"name": "grpo", "method": "grpo", **GROUPS},
        ],
    },
}


def write_rows(folder: Path) -> dict[str, str]:
    """Files of each format of rows, made from one generator of sums."""
    draw = random.Random(5)
    problems = []
    for _ in range(24):
        a, b = draw.randrange(2, 60), draw.randrange(2, 60)
        right, wrong = a + b, a + b + draw.choice([-10, -1, 1, 10])
        prompt = f"Q: {a}+{b}\nA:"
        problems.append(
            (prompt, f" {a}+{b}={right}\n#### {right}", f" {a}+{b}={wrong}\n#### {wrong}")
        )
    kinds: dict[str, list[dict[str, Any]]] = {
        "rows": [{"prompt": p, "completion": c} for p, c, _ in problems],
        "text": [{"text": p + c} for p, c, _ in problems],
        "pairs": [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in problems],
        "labelled": [
            {"prompt": p, "completion": r if i % 2 else c, "label": i % 2 == 0}
            for i, (p, c, r) in enumerate(problems)
        ],
        "lists": [
            {"prompt": p, "completions": [c, r, " 1"], "scores": [1.0, 0.5, 0.0]}
            for p, c, r in problems
        ],
        "rewarded": [
            {"prompt": p, "completion": text, "reward": reward}
            for p, c, r in problems
            for text, reward in ((c, 1.0), (r, 0.0))
        ],
    }
    places = {}
    for kind, rows in kinds.items():
        path = folder / f"{kind}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        places[kind] = str(path)
    return places


def recipe_of(case: dict[str, Any], rows: dict[str, str]) -> dict[str, Any]:
    """A case as a recipe: files in place, and the embedded model in float32."""
    model: dict[str, Any] = {"path": "embedded", "dtype": "float32"}
    recipe: dict[str, Any] = {"model": model}
    for key, value in case.items():
        if key.startswith("model."):
            model[key.partition(".")[2]] = value
        else:
            recipe[key] = value.format(**rows) if isinstance(value, str) else value
    return recipe


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:20]


def without_durations(line: str) -> dict[str, Any]:
    """A line of JSON without what differs from run to run."""
    values: dict[str, Any] = json.loads(line)
    return {k: v for k, v in values.items() if not any(k.startswith(name) for name in TIMED)}


def fingerprint(folder: Path) -> dict[str, str]:
    """Name of each result below a run's folder -> digest of its content."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if "checkpoint-" in name:
            continue
        if path.suffix == ".safetensors":
            digests[name] = digest(path.read_bytes())
        elif path.name in ("metrics.jsonl", "rollouts.jsonl", "samples.jsonl"):
            lines = [without_durations(line) for line in path.read_text().splitlines()]
            digests[name] = digest(json.dumps(lines, sort_keys=True).encode())
        elif path.name == "evaluation.json":
            metrics = json.loads(path.read_text())["metrics"]
            digests[name] = digest(json.dumps(metrics, sort_keys=True).encode())
    return digests


def record(names: list[str]) -> dict[str, dict[str, str]]:
    """Run the cases and fingerprint them."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    digests = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        environment["POSTTRAIN_CACHE"] = str(folder / "cache")
        rows = write_rows(folder)
        for name in names:
            recipe = folder / f"{name}.yaml"
            recipe.write_text(yaml.safe_dump(recipe_of(CASES[name], rows), sort_keys=False))
            output = folder / "runs" / name
            command = [sys.executable, "-m", "posttrain", "run", str(recipe), f"output={output}"]
            ran = subprocess.run(command, env=environment, capture_output=True, text=True)
            if ran.returncode:
                raise SystemExit(f"{name} failed:\n{ran.stdout[-2000:]}\n{ran.stderr[-3000:]}")
            digests[name] = fingerprint(output)
            print(f"{name}: {len(digests[name])} results", flush=True)
    return digests


def differences(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> list[str]:
    """What differs, as lines; results that are new are no difference."""
    lines = []
    for name in before:
        if name not in after:
            lines.append(f"{name}: not in the second file")
            continue
        for result, value in before[name].items():
            if after[name].get(result) != value:
                lines.append(f"{name}: {result} differs")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=["record", "compare"])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    options = parser.parse_args()
    if options.command == "record":
        digests = record(options.only or list(CASES))
        options.files[0].write_text(json.dumps(digests, indent=1) + "\n")
        return 0
    first, second = (json.loads(path.read_text()) for path in options.files)
    lines = differences(first, second)
    print("\n".join(lines) or f"equal: {len(first)} runs, {sum(map(len, first.values()))} results")
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
