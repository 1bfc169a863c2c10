"""train(2N) == train(N) + resume(N), bit for bit; also after Ctrl-C and after kill -9."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support import interrupted, lines, told

SFT: dict[str, Any] = {
    "method": "sft",
    "task": {"name": "arithmetic", "num_examples": 40, "num_steps": 1},
    "batch_size": 4,
    "learning_rate": 1e-3,
    "max_steps": 8,
    "save_every": 2,
    "warmup_steps": 2,
}
GRPO: dict[str, Any] = {
    "method": "grpo",
    "task": {"name": "arithmetic", "num_examples": 12, "num_steps": 1},
    "rewards": [{"name": "length", "target": 6}],
    "losses": [{"name": "clipped"}, {"name": "kl", "weight": 0.05}],
    "batch_size": 2,
    "num_generations": 4,
    "num_minibatches": 2,
    "num_iterations": 2,
    "sampling": {"max_tokens": 12},
    "learning_rate": 1e-3,
    "max_steps": 6,
    "save_every": 2,
}
LORA = {"lora": {"r": 4, "dropout": 0.1}}


def final(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "model").glob("*.safetensors")
    return load_file(file)


def same(a: Path, b: Path) -> None:
    one, two = final(a), final(b)
    assert one.keys() == two.keys() and one
    for key, value in one.items():
        assert torch.equal(value, two[key]), key


def steps_told(folder: Path) -> list[int]:
    return [row["step"] for row in lines(folder / "metrics.jsonl")]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("raw", [SFT, GRPO], ids=["sft", "grpo"])
def test_resume_is_exact(
    raw: dict[str, Any],
    lora: bool,
    run_recipe: Callable[..., Path],
    tmp_path: Path,
    tiny_folder: Path,
) -> None:
    model = {"path": str(tiny_folder), "dtype": "float32", **(LORA if lora else {})}
    whole = run_recipe(**raw, model=model, output=str(tmp_path / "whole"))
    # The second run is stopped in the middle, as Ctrl-C stops it: after the step at hand, with a
    # checkpoint.
    half = tmp_path / "half"
    interrupted(run_recipe, 3, **raw, model=model, output=str(half))
    assert max(steps_told(half)) == 3
    run_recipe(**raw, model=model, output=str(half), resume=True)
    same(whole, half)
    assert told(whole) == told(half)
    if raw is GRPO:
        assert (whole / "rollouts.jsonl").read_text() == (half / "rollouts.jsonl").read_text()


@pytest.mark.parametrize(
    "options",
    [{"optimizer": "muon", "ema_decay": 0.5}, {"optimizer": "adamw_8bit", "ema_decay": 0.9}],
    ids=["muon", "adamw_8bit"],
)
def test_resume_is_exact_with_every_rule_and_an_average(
    options: dict[str, Any], run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"prompt": f"{a}+1=", "completion": f" {a + 1}"} for a in range(16)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    held_out = {"eval_data": str(tmp_path / "rows.jsonl"), "eval_every": 2}
    whole = run_recipe(**SFT, **options, **held_out, output=str(tmp_path / "whole"))
    half = tmp_path / "half"
    interrupted(run_recipe, 3, **SFT, **options, **held_out, output=str(half))
    run_recipe(**SFT, **options, **held_out, output=str(half), resume=True)
    same(whole, half)
    assert told(whole) == told(half)


def test_an_interrupted_pipeline_goes_on_as_a_whole(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    stages = [
        {
            "name": "sft",
            "method": "sft",
            "task": {"name": "arithmetic", "num_examples": 8},
            "max_steps": 1,
        },
        {"name": "grpo", **GRPO},
        {
            "name": "sft2",
            "method": "sft",
            "task": {"name": "arithmetic", "num_examples": 8},
            "max_steps": 1,
        },
    ]
    raw = {"method": "pipeline", "stages": stages}
    whole = run_recipe(**raw, output=str(tmp_path / "whole"))
    half = tmp_path / "half"
    interrupted(run_recipe, 3, message=f"posttrain resume {half}$", **raw, output=str(half))
    assert not (half / "sft2").exists()
    before = (half / "sft" / "model" / "model.safetensors").stat().st_mtime_ns
    run_recipe(**raw, output=str(half), resume=True)
    assert (half / "sft" / "model" / "model.safetensors").stat().st_mtime_ns == before
    for stage in ("grpo", "sft2"):
        same(whole / stage, half / stage)


@pytest.mark.parametrize("raw", [SFT, GRPO], ids=["sft", "grpo"])
def test_resume_after_kill_9(
    raw: dict[str, Any], run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    model = {"path": str(tiny_folder), "dtype": "float32"}
    whole = run_recipe(**raw, model=model, output=str(tmp_path / "whole"))
    killed = tmp_path / "killed"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**raw, "model": model, "output": str(killed)}))
    # A pause in each step makes sure that the kill comes in the middle of the run.
    code = (
        "import time; from posttrain.training import hooks\n"
        "real = hooks.MetricsWriter.__call__\n"
        "def slow(self, step, metrics): real(self, step, metrics); time.sleep(0.5)\n"
        "hooks.MetricsWriter.__call__ = slow\n"
        f"from posttrain.cli import main; main(['run', {str(recipe)!r}])"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, env=environment
    )
    deadline = time.monotonic() + 120
    while not (killed / "metrics.jsonl").exists() or max(steps_told(killed), default=0) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert (killed / "checkpoint-2").is_dir() and not (killed / "model").exists()
    run_recipe(**raw, model=model, output=str(killed), resume=True)
    same(whole, killed)
    assert steps_told(killed) == list(range(1, raw["max_steps"] + 1))


def test_a_changed_template_is_refused(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    from posttrain.errors import CheckpointError

    run_recipe(**SFT)
    model = {
        "path": str(tiny_folder),
        "dtype": "float32",
        "chat_template": "{{ messages[0]['content'] }}",
    }
    with pytest.raises(CheckpointError, match="was trained with the chat template"):
        run_recipe(**{**SFT, "max_steps": 10}, model=model, resume=True)
