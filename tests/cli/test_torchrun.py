"""Recipes that torchrun runs in several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]


def recipe(tmp_path: Path, model: Path, **changes: object) -> Path:
    values = {
        "method": "sft",
        "model": {"path": str(model), "dtype": "float32"},
        "task": {"name": "arithmetic", "num_examples": 20, "num_steps": 1},
        "batch_size": 4,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "output": str(tmp_path / "run"),
        **changes,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def environment() -> dict[str, str]:
    """Without what a process of an outer torchrun would be told."""
    ours = {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    left_out = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {k: v for k, v in os.environ.items() if k not in left_out} | ours


def test_a_recipe_runs_once_in_two_processes(tmp_path: Path, tiny_folder: Path) -> None:
    command = [*TORCHRUN, "-m", "posttrain", "run", str(recipe(tmp_path, tiny_folder))]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=400)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("sft 2/2") == 1 and ran.stdout.count("run folder") == 1
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["step"]] == [1, 2]
    assert (tmp_path / "run" / "model").is_dir() and (tmp_path / "run" / "report.html").is_file()
    again = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=400)
    assert again.returncode != 0
    assert "ConfigError" in again.stderr and "RankError: rank 0 of 2" in again.stderr


def test_ctrl_c_saves_once(tmp_path: Path, tiny_folder: Path) -> None:
    command = [*TORCHRUN, "-m", "posttrain", "run"]
    command.append(str(recipe(tmp_path, tiny_folder, max_steps=100_000)))
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    metrics, end = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 300
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does; torchrun passes it on once more
    output, errors = process.communicate(timeout=300)
    assert process.returncode != 0 and errors.count("stopped after step") == 1
    assert output.count("finishing this step") == 1
    steps = len(metrics.read_text().splitlines())
    assert [p.name for p in (tmp_path / "run").glob("checkpoint-*")] == [f"checkpoint-{steps}"]
