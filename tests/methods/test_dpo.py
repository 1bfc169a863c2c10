"""Preference optimisation as whole runs on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import lines, stopped_and_resumed, tiny_model, told, write

from posttrain.errors import ConfigError, DataError

ROWS = [
    {"prompt": f"Q: {a}+{b}\nA:", "chosen": f" {a + b}", "rejected": f" {a + b + 1 + a % 2}"}
    for a in range(6)
    for b in range(6)
]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_it_prefers_the_chosen(run_recipe: Callable[..., Path], tmp_path: Path, lora: bool) -> None:
    data = write(tmp_path / "pairs.jsonl", ROWS)
    model = {
        "path": "embedded",
        "dtype": "float32",
        **({"lora": {"r": 8, "alpha": 16}} if lora else {}),
    }
    folder = run_recipe(
        method="dpo",
        model=model,
        data=data,
        eval_data=data,
        batch_size=12,
        num_train_epochs=10,
        learning_rate=3e-3 if lora else 3e-4,
    )
    metrics = lines(folder / "metrics.jsonl")
    assert metrics[0]["eval_loss"] == pytest.approx(
        0.6931, abs=1e-4
    )  # policy and reference are the same: log 2
    assert metrics[1]["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    assert metrics[-1]["eval_loss"] < 0.5 and metrics[-1]["eval_rewards/accuracies"] > 0.9
    names = {
        "loss",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/accuracies",
        "rewards/margins",
        "grad_norm",
        "epoch",
    }
    assert names <= metrics[-1].keys()


def test_the_reference_is_the_model_of_the_start(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    """The held-out loss by the saved model and the first one, computed from plain forward
    passes.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    data = write(tmp_path / "pairs.jsonl", ROWS[:8])
    folder = run_recipe(
        method="dpo", data=data, eval_data=data, batch_size=8, max_steps=4, learning_rate=1e-3
    )
    told = lines(folder / "metrics.jsonl")[-1]["eval_loss"]
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)

    def total(model: Any, prompt: str, completion: str) -> float:
        before = tokenizer(prompt)["input_ids"]
        ids = (
            before
            + tokenizer(completion, add_special_tokens=False)["input_ids"]
            + [tokenizer.eos_token_id]
        )
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        return sum(float(logp[i - 1, ids[i]]) for i in range(len(before), len(ids)))

    policy, ref = (
        AutoModelForCausalLM.from_pretrained(f).eval() for f in (folder / "model", tiny_folder)
    )
    losses = []
    for row in ROWS[:8]:
        c, r = (
            total(policy, row["prompt"], row[k]) - total(ref, row["prompt"], row[k])
            for k in ("chosen", "rejected")
        )
        losses.append(
            -float(torch.nn.functional.logsigmoid(torch.tensor(0.1 * (c - r), dtype=torch.float64)))
        )
    assert told == pytest.approx(sum(losses) / 8, abs=1e-5)


def test_no_reference_is_kept_where_none_is_needed(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    data = write(tmp_path / "pairs.jsonl", ROWS)
    folder = run_recipe(
        method="dpo",
        data=data,
        losses=["orpo", "chosen_nll"],
        batch_size=12,
        num_train_epochs=10,
        learning_rate=2e-3,
    )
    metrics = lines(folder / "metrics.jsonl")
    assert (
        metrics[-1]["loss/chosen_nll"] < metrics[0]["loss/chosen_nll"] and "kl" not in metrics[-1]
    )
    assert metrics[-1]["rewards/accuracies"] > metrics[0]["rewards/accuracies"]


def test_bad_pairs(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    def refused(
        error: type[Exception], message: str, rows: list[dict[str, Any]], **more: Any
    ) -> None:
        with pytest.raises(error, match=message):
            run_recipe(method="dpo", data={"path": write(tmp_path / "rows.jsonl", rows), **more})
        assert not (tmp_path / "run").exists()

    same = {"prompt": "a", "chosen": "b", "rejected": "b"}
    refused(
        DataError,
        "2 of 5 rows have completions that after cutting are equal",
        [*ROWS[:3], same, same],
    )
    refused(
        DataError,
        "no row is left to train on: of 1 rows 1 have completions that after cutting are equal",
        [same],
    )
    refused(DataError, "column 'rejected' is empty", [*ROWS[:3], {**same, "rejected": ""}])
    refused(DataError, "row 0 has no prompt", [{"chosen": "x", "rejected": "y"}])
    refused(
        DataError,
        "pairs need the columns chosen and rejected",
        [{"prompt": "a", "completion": "b"}],
    )
    refused(
        DataError,
        "row 1 has .* tokens, data.max_length is 16",
        [ROWS[0], {**ROWS[1], "chosen": "z" * 30}],
        max_length=16,
        truncation="error",
    )
    refused(ConfigError, "train_on", ROWS, train_on="last")


def test_equal_pairs_are_counted_and_left_out(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [*ROWS, {"prompt": "a", "chosen": "b", "rejected": "b"}]
    folder = run_recipe(
        method="dpo", data=write(tmp_path / "rows.jsonl", rows), max_steps=1, batch_size=40
    )
    assert (folder / "model").is_dir()


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_resume_is_exact(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path, lora: bool
) -> None:
    """Stopped after step 3 and gone on with: the same weights and numbers, the reference still
    the model of the start.
    """

    data = write(tmp_path / "pairs.jsonl", ROWS)
    model = tiny_model(tiny_folder, {"r": 2, "alpha": 4} if lora else None)
    raw = {
        "method": "dpo",
        "model": model,
        "data": data,
        "batch_size": 8,
        "max_steps": 6,
        "learning_rate": 1e-3,
    }
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 3, **raw)
    assert told(whole) == told(half) and len(told(whole)) == 6
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    assert (whole / "model" / name).read_bytes() == (half / "model" / name).read_bytes()
