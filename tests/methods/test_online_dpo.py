"""Online preference optimisation as whole runs on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import checked, stopped_and_resumed, tiny_model, told, weights

from posttrain.errors import ConfigError

TASK = {"name": "arithmetic", "num_examples": 12, "num_steps": 1}
ONLINE: dict[str, Any] = {
    "method": "online_dpo",
    "task": TASK,
    "rewards": [{"name": "length", "target": 6}],
    "batch_size": 3,
    "num_generations": 4,
    "sampling": {"max_tokens": 12},
    "learning_rate": 1e-3,
    "max_steps": 5,
    "reference_every": 2,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_resume_is_exact(
    lora: bool,
    run_recipe: Callable[..., Path],
    tmp_path: Path,
    tiny_folder: Path,
) -> None:
    model = tiny_model(tiny_folder, {"r": 2} if lora else None)
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 3, **ONLINE, model=model)
    assert weights(whole) == weights(half) and told(whole) == told(half)
    assert (whole / "rollouts.jsonl").read_text() == (half / "rollouts.jsonl").read_text()
    metrics = told(whole)
    assert len(metrics) == 5 and sum(m["pairs/trained"] for m in metrics) > 0
    assert {
        "reward",
        "completions/mean_length",
        "rewards/accuracies",
        "pairs/skipped",
    } <= set().union(*metrics)


def test_a_step_of_ties_changes_nothing(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    folder = run_recipe(
        **{**ONLINE, "rewards": ["task"], "max_steps": 1, "weight_decay": 0.0}
    )  # all wrong: rewards 0
    assert told(folder)[0]["pairs/skipped"] == 3.0 and "loss" not in told(folder)[0]
    assert load_file(folder / "model" / "model.safetensors").keys()
    before, after = (load_file(f / "model.safetensors") for f in (tiny_folder, folder / "model"))
    assert all(torch.equal(before[k], v) for k, v in after.items())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_generations": 1}, "num_generations: 1"),
        ({"sampling": {"temperature": 0.0}}, r"sampling\.temperature: 0"),
        ({"losses": ["simpo"]}, "reference_every"),
        ({"reference_mix": 1.5}, "reference_mix: 1.5"),
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, tiny_folder: Path, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        checked(tmp_path, tiny_folder, **{**ONLINE, **change})
