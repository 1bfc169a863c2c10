"""A pipeline run as three stages leave it, with numbers that are made up but shaped like real
ones.
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

INJECTION = (
    '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1"> & "quotes" '
    "\u2028 end"
)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8"
    )


def metrics(steps: int, *, rl: bool, seed: int = 0) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = []
    for step in range(1, steps + 1):
        t = step / steps
        row: dict[str, Any] = {
            "step": step,
            "loss": 0.02 * rng.gauss(0, 1)
            if rl
            else 0.4 + 1.6 * math.exp(-5 * t) + rng.gauss(0, 0.05),
            "grad_norm": abs(rng.gauss(0.5, 0.1)),
            "entropy": 1.2 * math.exp(-t) + rng.gauss(0, 0.02),
            "learning_rate": 3e-4 * (1 - t) if not rl else 3e-5,
            "num_tokens": 2100.0 * step,
            "step_time": 1.0 + rng.random() * 0.1,
            "tokens_per_second": 2000 + rng.gauss(0, 100),
        }
        if rl:
            reward = 0.25 + 0.5 * (1 - math.exp(-3 * t)) + rng.gauss(0, 0.04)
            row |= {
                "reward": reward,
                "reward_std": math.sqrt(max(reward * (1 - reward), 0.01)),
                "kl": 0.08 * t + abs(rng.gauss(0, 0.005)),
                "rewards/task/mean": reward - 0.1,
                "rewards/task/std": 0.4,
                "rewards/tags/mean": min(1.0, 0.6 + t),
                "completions/mean_length": 36 + 6 * t + rng.gauss(0, 1),
                "completions/clipped_ratio": max(0.0, 0.05 * (1 - t) + rng.gauss(0, 0.005)),
                "frac_reward_zero_std": 0.2 + 0.2 * t,
                "rewards/errors": float(step % 30 == 0),
            }
        rows.append(row)
    return rows


def group(step: int, i: int, *, size: int = 8, text: str = "") -> dict[str, Any]:
    rng = random.Random(step * 1000 + i)
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    completions = []
    for j in range(size):
        right = rng.random() < 0.3 + 0.005 * step
        value = a + b if right else a + b + rng.randint(1, 20)
        completions.append(
            {
                "text": text or f" {a}+{b}={value}\n#### {value}",
                "reward": 1.2 if right else 0.2,
                "rewards": {"task": float(right), "tags": 1.0},
                "advantage": 1.1 if right else -0.6,
                "num_tokens": 20 + j,
                "finish_reason": "length" if j == 3 else "stop",
                "error": None,
            }
        )
    completions[-1] |= {
        "reward": None,
        "rewards": {"task": None, "tags": 1.0},
        "error": "task: ZeroDivisionError: <b>x</b>",
    }
    return {
        "step": step,
        "id": f"arithmetic-{step}-{i}",
        "prompt": f"Q: {a}+{b}\nA:",
        "answer": str(a + b),
        "completions": completions,
    }


def evaluation(
    accuracy: float, *, num_samples: int = 16, search: str | None = None, seed: int = 3
) -> dict[str, Any]:
    rng = random.Random(seed)

    def interval(p: float) -> dict[str, float]:
        return {"estimate": p, "low": max(0.0, p - 0.03), "high": min(1.0, p + 0.03), "n": 300}

    values: dict[str, Any] = {"accuracy": interval(accuracy)}
    k = 2
    while k <= num_samples:
        values[f"pass@{k}"] = interval(1 - (1 - accuracy) ** (k**0.8))
        values[f"maj@{k}"] = interval(min(1.0, accuracy * (1 + 0.09 * math.log2(k))))
        k *= 2
    values |= {"mean_tokens": 38.2, "truncated": 0.02, "unparsed": 0.1, "errors": 0}
    examples = []
    for i in range(300):
        a, b = 11 + i % 80, 17 + i % 70
        correct = [int(rng.random() < accuracy) for _ in range(num_samples)]
        texts = [
            f" {a}+{b}={a + b + (0 if c else 7)}\n#### {a + b + (0 if c else 7)}"
            for c in (correct * 4)[:4]
        ]
        examples.append(
            {
                "id": f"test-{i}",
                "prompt": f"Q: {a}+{b}\nA:",
                "answer": str(a + b),
                "correct": correct,
                "answers": [None] * num_samples,
                "num_tokens": [38] * num_samples,
                "texts": texts,
            }
        )
    return {
        "task": "arithmetic",
        "num_examples": 300,
        "num_samples": num_samples,
        "sampling": {"max_tokens": 64, "temperature": 1.0},
        "seed": 1234,
        "search": search,
        "metrics": values,
        "examples": examples,
    }


STAGES = [
    ("base", "base", 0.171),
    ("sft", "SFT", 0.324),
    ("grpo", "GRPO", 0.587),
    ("vote", "GRPO + vote of 8", 0.713),
]


def write_run(folder: Path, *, steps: int = 80, groups_a_step: int = 2, text: str = "") -> Path:
    """A pipeline run: base evaluation, SFT, GRPO, vote."""
    rows = []
    recipe = (
        "# posttrain run recipes/quickstart.yaml seed=0\nmethod: pipeline\ntitle: "
        "quickstart\nseed: 0\n"
    )
    for i, (name, title, accuracy) in enumerate(STAGES):
        stage = folder / name
        stage.mkdir(parents=True)
        (stage / "recipe.yaml").write_text(recipe.replace("pipeline", name))
        values = evaluation(
            accuracy, **({"num_samples": 1, "search": "majority_vote"} if name == "vote" else {})
        )
        (stage / "evaluation.json").write_text(json.dumps(values))
        by = values["metrics"]
        rows.append(
            {
                "stage": title,
                "folder": name,
                "accuracy": accuracy,
                "low": by["accuracy"]["low"],
                "high": by["accuracy"]["high"],
                "p_value": None if i == 0 else 0.0001 if i < 3 else 0.012,
                "pass@k": {k[5:]: v["estimate"] for k, v in by.items() if k.startswith("pass@")},
                "maj@k": {k[4:]: v["estimate"] for k, v in by.items() if k.startswith("maj@")},
                "mean_tokens": 38.2 if name != "vote" else 305.6,
                "seconds": [12.0, 41.0, 163.0, 22.0][i],
                "note": "",
            }
        )
    write_lines(folder / "sft" / "metrics.jsonl", metrics(max(steps // 2, 1), rl=False))
    write_lines(folder / "grpo" / "metrics.jsonl", metrics(steps, rl=True))
    lines = [group(s, i, text=text) for s in range(1, steps + 1) for i in range(groups_a_step)]
    write_lines(folder / "grpo" / "rollouts.jsonl", lines)
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "summary.json").write_text(
        json.dumps({"title": "quickstart", "command": "posttrain run", "rows": rows})
    )
    return folder


@pytest.fixture
def fake() -> ModuleType:
    """The functions of this file."""
    return sys.modules[__name__]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pipeline run of 80 steps."""
    return write_run(tmp_path / "quickstart")
