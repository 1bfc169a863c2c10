"""Evaluations while a model trains: every eval_every steps, without a trace in what is learnt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TASK: dict[str, Any] = {
    "name": "arithmetic",
    "num_steps": 1,
    "max_operand": 9,
    "max_value": 20,
    "num_examples": 8,
}
EVALUATION: dict[str, Any] = {
    "task": {**TASK, "split": "test"},
    "num_examples": 3,
    "sampling": {"max_tokens": 6},
}
PAIRS = [{"prompt": f"{i}+1=", "chosen": f" {i + 1}", "rejected": " x"} for i in range(8)]
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"task": TASK, "neftune_noise_alpha": 5.0},
    "grpo": {
        "task": TASK,
        "sampling": {"max_tokens": 6},
        "num_generations": 2,
        "rewards": ["length"],
    },
    "dpo": {"data": "pairs.jsonl"},
    "kto": {"data": "pairs.jsonl"},
    "online_dpo": {"task": TASK, "sampling": {"max_tokens": 6}, "rewards": ["length"]},
    "self_training": {
        "task": TASK,
        "sampling": {"max_tokens": 6},
        "rewards": ["length"],
        "min_reward": 0.0,
        "steps_per_round": 4,
    },
    "spin": {"task": TASK, "sampling": {"max_tokens": 6}},
}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", METHODS)
def test_a_model_is_measured_while_it_trains(
    run_recipe: Callable[..., Path], tmp_path: Path, method: str
) -> None:
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in PAIRS))
    raw = {
        "method": method,
        **METHODS[method],
        "max_steps": 4,
        "batch_size": 4,
        "learning_rate": 1e-3,
    }
    raw["evaluation"] = EVALUATION
    plain = run_recipe(**raw, output=str(tmp_path / "plain"))
    folder = run_recipe(**raw, eval_every=2, output=str(tmp_path / "measured"))
    names = ("evaluation/accuracy", "evaluation/mean_tokens", "evaluation/truncated")
    assert [r["step"] for r in lines(folder) if all(n in r for n in names)] == [2, 4]
    assert not any(n in r for r in lines(plain) for n in names)
    (first,), (second,) = ((f / "model").glob("*.safetensors") for f in (plain, folder))
    assert first.read_bytes() == second.read_bytes()
    # The last measurement is the final evaluation, and both are what an evaluation after the
    # training gives.
    a, b = (json.loads((f / "evaluation.json").read_text()) for f in (plain, folder))
    assert a["examples"] == b["examples"]
    assert lines(folder)[-1]["evaluation/accuracy"] == b["metrics"]["accuracy"]["estimate"]
    assert lines(folder)[-1]["evaluation/mean_tokens"] == b["metrics"]["mean_tokens"]


def test_fields_of_data_that_a_method_passes_over_are_refused(
    tmp_path: Path, tiny_folder: Path
) -> None:
    from posttrain.errors import ConfigError
    from posttrain.recipe import parse_recipe
    from posttrain.runs import run_of

    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in PAIRS))

    def job(**raw: Any) -> Any:
        return run_of(
            parse_recipe(
                {"model": str(tiny_folder), "output": str(tmp_path / "run"), **raw}, tmp_path
            )
        ).prepared()

    data = {"path": "pairs.jsonl", "rationale_weight": 0.5}
    for method in ("dpo", "reward_model"):
        with pytest.raises(
            ConfigError,
            match=f"data.rationale_weight: method '{method}' does not read rationale_weight",
        ):
            job(method=method, data=data)
    with pytest.raises(ConfigError, match="eval_data.rationale_weight"):
        job(method="dpo", data="pairs.jsonl", eval_data=data)
    assert job(
        method="dpo", data={"path": "pairs.jsonl", "limit": 4, "max_length": 64, "train_on": "auto"}
    )
    asked = {
        "method": "distill",
        "teacher": str(tiny_folder),
        "sampling": {"max_tokens": 4},
        "lmbda": 1,
    }
    with pytest.raises(
        ConfigError,
        match="data.max_length: method 'distill' does not read max_length with these settings",
    ):
        job(**asked, data={"path": "pairs.jsonl", "max_length": 64})
