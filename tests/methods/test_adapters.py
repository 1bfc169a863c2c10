"""Adapters and variants of fine-tuning in whole runs: exact resume, and folders that PEFT loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from support import stopped_and_resumed, told, write

SFT: dict[str, Any] = {
    "method": "sft",
    "task": {"name": "arithmetic", "num_examples": 24, "num_steps": 1},
    "batch_size": 4,
    "learning_rate": 3e-3,
    "max_steps": 8,
}
PAIRS = [{"prompt": f"{a}+1=", "chosen": f"{a + 1}", "rejected": f"{a}"} for a in range(8)]


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"adapter": {"kind": "adalora", "r": 2, "dropout": 0.1}}},
        {
            "model": {
                "adapter": {"kind": "p_tuning", "num_virtual_tokens": 3, "encoder_hidden_size": 4}
            }
        },
        {"model": {"adapter": {"kind": "partial", "last_layers": 1}}},
        {"model": {"lora": {"r": 2, "init": "pissa", "lora_plus_ratio": 4}}, "method": "dpo"},
        {"neftune_noise_alpha": 5.0, "losses": ["label_smoothing"]},
    ],
    ids=["adalora", "p_tuning", "partial", "pissa-dpo", "neftune"],
)
def test_resume_is_exact(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path, change: dict[str, Any]
) -> None:
    model = {"path": str(tiny_folder), "dtype": "float32", **change.get("model", {})}
    raw = {**SFT, **change, "model": model}
    if raw["method"] == "dpo":
        data = write(tmp_path / "pairs.jsonl", PAIRS)
        raw = {**{k: v for k, v in raw.items() if k != "task"}, "data": data, "max_steps": 4}
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 3, **raw)
    (one,), (two,) = (list((f / "model").glob("*model.safetensors")) for f in (whole, half))
    first, second = load_file(one), load_file(two)
    assert first.keys() == second.keys() and all((first[k] == second[k]).all() for k in first)
    assert told(whole) == told(half) and told(whole)[-1]["loss"] < told(whole)[0]["loss"]


def test_weights_that_are_not_trained_stay(
    run_recipe: Callable[..., Path], tiny_folder: Path
) -> None:
    model = {
        "path": str(tiny_folder),
        "dtype": "float32",
        "adapter": {"kind": "partial", "last_layers": 1},
    }
    folder = run_recipe(**SFT, model=model)
    before, after = (
        load_file(tiny_folder / "model.safetensors"),
        load_file(folder / "model" / "model.safetensors"),
    )
    moved = {name for name in before if (before[name] != after[name]).any()}
    assert moved and all(".layers.1." in name for name in moved)


def test_virtual_tokens_leave_room_in_the_context(
    run_recipe: Callable[..., Path], tiny_folder: Path
) -> None:
    from transformers import AutoConfig

    from posttrain.errors import ConfigError

    context = AutoConfig.from_pretrained(tiny_folder).max_position_embeddings
    model = {
        "path": str(tiny_folder),
        "adapter": {"kind": "prompt", "num_virtual_tokens": context - 40},
    }
    task = {"name": "arithmetic", "num_examples": 4, "num_steps": 1}
    with pytest.raises(ConfigError, match="exceed the model's context of 40"):
        run_recipe(method="grpo", task=task, model=model, sampling={"max_tokens": 39})
    with pytest.raises(ConfigError, match="neftune_noise_alpha: -1"):
        run_recipe(**SFT, neftune_noise_alpha=-1)
