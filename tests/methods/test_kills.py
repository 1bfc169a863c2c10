"""kill -9 anywhere: in a step, in the middle of a file, between two renames. The run resumed to
its end is the same.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from killed import run_in_process
from support import told, write

SFT: dict[str, Any] = {
    "method": "sft",
    "task": {"name": "arithmetic", "num_examples": 16, "num_steps": 1},
    "batch_size": 4,
    "learning_rate": 1e-3,
    "max_steps": 6,
}
POLICY: dict[str, Any] = {
    "task": {"name": "arithmetic", "num_examples": 8, "num_steps": 1},
    "rewards": [{"name": "length", "target": 6}],
    "batch_size": 2,
    "num_generations": 2,
    "sampling": {"max_tokens": 8},
    "learning_rate": 1e-3,
    "max_steps": 5,
}
SAMPLED = {key: value for key, value in POLICY.items() if key != "num_generations"}
STAR: dict[str, Any] = {
    "method": "self_training",
    **POLICY,
    "num_rounds": 2,
    "steps_per_round": 3,
    "min_reward": None,
    "top_fraction": 0.5,
}
RUNS: dict[str, dict[str, Any]] = {
    "sft": {
        **SFT,
        "evaluation": {
            "task": {"name": "arithmetic"},
            "num_examples": 2,
            "sampling": {"max_tokens": 4},
        },
    },
    "lora": {**SFT, "lora": {"r": 4, "dropout": 0.1}},
    "dpo": {
        "method": "dpo",
        "data": "pairs.jsonl",
        "batch_size": 2,
        "learning_rate": 1e-3,
        "max_steps": 5,
    },
    "ppo": {"method": "ppo", **POLICY},
    "grpo": {
        "method": "grpo",
        **POLICY,
        "num_generations": 4,
        "losses": [{"name": "clipped"}, {"name": "kl", "weight": 0.05}],
    },
    "spin": {"method": "spin", **SAMPLED, "num_rounds": 2},
    "self_training": {**STAR, "accumulate": True},
    "restarted": {**STAR, "restart": True, "lora": {"r": 4, "dropout": 0.1}},
}
KILLS_EACH = 4


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_ends_as_an_undisturbed_one(
    name: str, tmp_path: Path, tiny_folder: Path
) -> None:
    raw = {**RUNS[name], "save_every": 2, "model": {"path": str(tiny_folder), "dtype": "float32"}}
    raw["model"] |= {"lora": raw.pop("lora")} if "lora" in raw else {}
    if "data" in raw:
        rows = [
            {"prompt": f"{i}+1=", "chosen": f" {i + 1}", "rejected": f" {i + 2}"} for i in range(8)
        ]
        raw["data"] = write(tmp_path / "pairs.jsonl", rows)
    whole, count = tmp_path / "whole", tmp_path / "events"
    assert (
        run_in_process({**raw, "output": str(whole)}, resume=False, die_at=None, count=count) == 0
    )
    events = int(count.read_text())
    draw = random.Random(f"kills of {name}")
    kills = runs = 0
    while kills < KILLS_EACH:
        runs += 1
        killed = {**raw, "output": str(tmp_path / f"killed-{runs}")}
        folder, code = Path(killed["output"]), None
        while code != 0:
            die_at = draw.randrange(1, events) if kills < KILLS_EACH else None
            code = run_in_process(
                killed, resume=(folder / "recipe.yaml").exists(), die_at=die_at, count=count
            )
            assert code in (0, -9)
            kills += code == -9
        assert files(folder / "model") == files(whole / "model")
        assert told(folder) == told(whole)
        for other in ("rollouts.jsonl",):
            assert (
                not (whole / other).exists()
                or (folder / other).read_text() == (whole / other).read_text()
            )
        assert not [
            p.name
            for p in folder.iterdir()
            if ".partial" in p.name or ".old" in p.name or p.name == ".lock"
        ]
