"""Listwise, online and self-play preference optimisation as whole runs on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import stopped_and_resumed, told, weights, write

from posttrain.errors import ConfigError, DataError

LISTS = [
    {
        "prompt": f"Q: {a}+{b}\nA:",
        "completions": [f" {a + b}", f" {a + b + 1}", " x"][: 3 - b % 2],
        "scores": [2, 1, 0][: 3 - b % 2],
    }
    for a in range(6)
    for b in range(2)
]
LIST: dict[str, Any] = {
    "method": "listwise",
    "batch_size": 6,
    "max_steps": 10,
    "learning_rate": 1e-3,
}
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
SPIN: dict[str, Any] = {
    "method": "spin",
    "task": TASK,
    "batch_size": 4,
    "sampling": {"max_tokens": 12},
    "learning_rate": 1e-3,
    "num_rounds": 2,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    "loss", ["plackett_luce_dpo", "lipo", "rrhf", "pro", "mdpo", {"name": "mipo", "unbiased": True}]
)
def test_the_order_of_the_scores_is_learnt(
    run_recipe: Callable[..., Path], tmp_path: Path, loss: Any
) -> None:
    data = write(tmp_path / "lists.jsonl", LISTS)
    cached = loss in ("plackett_luce_dpo", "mdpo")
    folder = run_recipe(
        **{**LIST, "data": data, "eval_data": data, "losses": [loss], "cache_reference": cached}
    )
    start, end = told(folder)[0], told(folder)[-1]
    assert (
        end["eval_loss"] < start["eval_loss"]
        and end["eval_rewards/margins"] > start["eval_rewards/margins"]
    )


@pytest.mark.parametrize("raw", [ONLINE, SPIN], ids=["online_dpo", "spin"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_resume_is_exact(
    raw: dict[str, Any],
    lora: bool,
    run_recipe: Callable[..., Path],
    tmp_path: Path,
    tiny_folder: Path,
) -> None:
    model = {"path": str(tiny_folder), "dtype": "float32", **({"lora": {"r": 2}} if lora else {})}
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 3, **raw, model=model)
    assert weights(whole) == weights(half) and told(whole) == told(half)
    assert (whole / "rollouts.jsonl").read_text() == (half / "rollouts.jsonl").read_text()
    metrics = told(whole)
    assert (
        len(metrics) == (5 if raw is ONLINE else 6) and sum(m["pairs/trained"] for m in metrics) > 0
    )
    assert {
        "reward",
        "completions/mean_length",
        "rewards/accuracies",
        "pairs/skipped",
    } <= set().union(*metrics)


def test_the_opponent_is_the_model_of_the_rounds_start(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Within a round the rejected texts do not depend on what has been learnt in it."""
    texts = []
    for rate in (1e-3, 1e-12):
        folder = run_recipe(**{**SPIN, "learning_rate": rate, "output": str(tmp_path / str(rate))})
        rows = [json.loads(line) for line in (folder / "rollouts.jsonl").read_text().splitlines()]
        texts.append([(r["step"], c["text"]) for r in rows for c in r["completions"]])
    first = [[t for t in row if t[0] <= 3] for row in texts]  # rounds of three steps
    assert first[0] == first[1] and texts[0] != texts[1]


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


def test_what_cannot_work_is_refused(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    rows = write(
        tmp_path / "rows.jsonl", [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"}]
    )
    for raw, message in (
        ({**ONLINE, "num_generations": 1}, "num_generations: 1 gives no pair"),
        (
            {**ONLINE, "sampling": {"temperature": 0.0, "max_tokens": 4}},
            "samples the same completion each time",
        ),
        (
            {**ONLINE, "losses": ["simpo"]},
            "reference_every: none of the losses asks for a reference",
        ),
        ({**SPIN, "num_rounds": 0}, "num_rounds: 0 must be at least 1"),
        ({**SPIN, "losses": ["simpo"]}, "a loss with a reference is needed"),
        (
            {**SPIN, "task": {"name": "jsonl", "path": rows}},
            "has no worked completion, which self-play imitates",
        ),
        ({**LIST, "data": rows}, "lists need the columns prompt, completions and scores"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            run_recipe(**raw)
    assert not (tmp_path / "run").exists()
