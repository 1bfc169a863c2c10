"""The same recipes on real things: a pre-trained model, real text, real problems."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

RECIPES = Path(__file__).parent.parent.parent / "recipes"


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_held_out_loss_of_real_text_falls(
    stories: Path, shared: Path, tmp_path: Path, run_recipe: Callable[..., Path]
) -> None:
    import yaml

    text = (shared / "data" / "text_corpora" / "wizard_of_oz.txt").read_text()[:120_000]
    lines = [line for line in text.split("\n") if line.strip()]
    parts = ["\n".join(lines[i : i + 6]) for i in range(0, len(lines), 6)]
    (tmp_path / "train.txt").write_text("\n\n".join(parts[:-30]))
    (tmp_path / "held_out.txt").write_text("\n\n".join(parts[-30:]))
    raw = yaml.safe_load((RECIPES / "sft_text.yaml").read_text())
    raw.update(
        model={"path": str(stories), "dtype": "float32"},
        data={"path": str(tmp_path / "train.txt"), "max_length": 256},
        eval_data={"path": str(tmp_path / "held_out.txt"), "max_length": 256},
        output=str(tmp_path / "run"),
        max_steps=25,
        learning_rate=2e-3,
    )
    rows = metrics(run_recipe(**raw))
    assert rows[-1]["eval_loss"] < rows[0]["eval_loss"] - 0.1


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_grpo_raises_a_keyword_reward(
    stories: Path, shared: Path, tmp_path: Path, run_recipe: Callable[..., Path], lora: bool
) -> None:
    """Prompts are openings of real stories; the reward is the share of words that occur (seed
    0).
    """
    with gzip.open(shared / "data" / "text_corpora" / "tinystories_2MiB.txt.gz", "rt") as file:
        tales = file.read().split("<|endoftext|>")[:64]
    rows = [
        {"prompt": " ".join(t.split()[:12]), "answer": "-"} for t in tales if len(t.split()) > 20
    ]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    folder = run_recipe(
        method="grpo",
        model={
            "path": str(stories),
            "dtype": "float32",
            **({"lora": {"r": 8, "alpha": 16}} if lora else {}),
        },
        task={"name": "jsonl", "path": str(tmp_path / "prompts.jsonl")},
        rewards=[{"name": "keyword", "words": ["happy", "friend", "play"]}],
        sampling={"max_tokens": 32},
        batch_size=8,
        num_generations=8,
        max_steps=30,
        learning_rate=1e-2 if lora else 1e-3,
        output=str(tmp_path / "run"),
    )
    rewards = [r["reward"] for r in metrics(folder)]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.15
    same_greedy_tokens(folder / "model", stories, lora)


def same_greedy_tokens(folder: Path, base: Path, lora: bool) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from posttrain.engines.torch import TorchEngine
    from posttrain.models.load import load_model
    from posttrain.types import Request, Sampling

    model: Any = AutoModelForCausalLM.from_pretrained(base if lora else folder)
    if lora:
        model = PeftModel.from_pretrained(model, folder)
    ids = AutoTokenizer.from_pretrained(folder)("Once upon a time")["input_ids"]
    theirs = (
        model.eval()
        .generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)[0, len(ids) :]
        .tolist()
    )
    engine = TorchEngine(load_model(str(folder), dtype="float32"))
    ((ours,),) = engine.generate([Request(tuple(ids), Sampling(max_tokens=24, temperature=0.0))])
    assert ours.ids == theirs


def test_sft_and_grpo_on_gsm8k(
    stories: Path, shared: Path, tmp_path: Path, run_recipe: Callable[..., Path]
) -> None:
    """The model is far too small to solve these; that both methods run on real rows and leave
    sound files is the point.
    """
    path = str(shared / "data" / "gsm8k" / "train.jsonl.gz")
    model = {"path": str(stories), "dtype": "float32"}
    task = {"name": "gsm8k", "path": path, "num_examples": 16}
    sft = run_recipe(
        method="sft",
        model=model,
        task={**task, "num_examples": 24},
        batch_size=8,
        max_steps=4,
        learning_rate=1e-3,
        output=str(tmp_path / "sft"),
    )
    rows = [
        row for row in metrics(sft) if row["step"]
    ]  # before the first step: what of the rows was dropped
    assert rows[-1]["loss"] < rows[0]["loss"]
    grpo = run_recipe(
        method="grpo",
        model={**model, "path": str(sft / "model")},
        task=task,
        rewards=["task", {"name": "length", "target": 20, "weight": 0.1}],
        batch_size=2,
        num_generations=4,
        max_steps=2,
        sampling={"max_tokens": 24},
        output=str(tmp_path / "grpo"),
    )
    assert metrics(grpo)[-1]["rewards/task/mean"] is not None
    same_greedy_tokens(grpo / "model", stories, lora=False)


def test_the_gpu_recipe_passes_every_check_without_weights(
    tiny_folder: Path, shared: Path, tmp_path: Path
) -> None:
    """A Qwen3-class folder with tokenizer and config but no weights, and the real problems."""
    from posttrain.cli import main

    folder = tmp_path / "qwen3"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 40960}))
    gsm8k = shared / "data" / "gsm8k"
    arguments = [
        f"model.path={folder}",
        f"task.path={gsm8k / 'train.jsonl.gz'}",
        f"evaluation.task.path={gsm8k / 'test.jsonl'}",
    ]
    assert main(["check", str(RECIPES / "grpo_gsm8k_qwen3.yaml"), *arguments]) == 0
