"""Supervised fine-tuning as whole runs on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from support import lines, write

from posttrain.recipe import parse_recipe

TASK = {"name": "arithmetic", "num_examples": 24, "num_steps": 1}


def test_sft_learns_and_leaves_a_model_that_others_load(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a in range(6) for b in range(6)]
    data = write(tmp_path / "rows.jsonl", rows)
    folder = run_recipe(
        method="sft",
        data=data,
        eval_data=data,
        batch_size=12,
        learning_rate=3e-3,
        num_train_epochs=20,
    )
    metrics = lines(folder / "metrics.jsonl")
    assert metrics[0]["step"] == 0 and metrics[-1]["eval_loss"] < 0.6 * metrics[0]["eval_loss"]
    names = {
        "loss",
        "grad_norm",
        "learning_rate",
        "num_tokens",
        "step_time",
        "epoch",
        "entropy",
        "mean_token_accuracy",
    }
    assert names <= metrics[-1].keys() and 0 <= metrics[-1]["mean_token_accuracy"] <= 1
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder / "model"),
        AutoTokenizer.from_pretrained(folder / "model"),
    )
    assert tokenizer.chat_template
    same_greedy_tokens(model, tokenizer, folder / "model")
    again = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert parse_recipe(again).batch_size == 12


def same_greedy_tokens(model: Any, tokenizer: Any, folder: Path, text: str = "Q: 3+4\nA:") -> None:
    """The saved folder, asked by transformers, writes what the engine writes."""
    from posttrain.data.templates import encode_prompt
    from posttrain.engines.torch import TorchEngine
    from posttrain.models.load import load_model
    from posttrain.types import Request, Sampling

    ids = encode_prompt(tokenizer, text)
    theirs = (
        model.eval()
        .generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
        .tolist()
    )
    engine = TorchEngine(load_model(str(folder), dtype="float32"))
    (ours,) = engine.generate([Request(tuple(ids), Sampling(max_tokens=12, temperature=0.0))])
    assert ours[0].ids == theirs


def test_lora_leaves_an_adapter_for_peft(
    run_recipe: Callable[..., Path], tiny_folder: Path
) -> None:
    model = {"path": str(tiny_folder), "dtype": "float32", "lora": {"r": 4}}
    folder = run_recipe(method="sft", task=TASK, model=model, learning_rate=1e-2, max_steps=3)
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    loaded = PeftModel.from_pretrained(base, folder / "model")
    same_greedy_tokens(loaded, AutoTokenizer.from_pretrained(folder / "model"), folder / "model")
