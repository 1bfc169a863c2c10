"""KTO and its kin as whole runs on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import stopped_and_resumed, told, weights, write

from posttrain.data.comparisons import encode_labelled
from posttrain.errors import ConfigError, DataError
from posttrain.models.load import load_model
from posttrain.sources.unpaired import UnpairedSource, mismatched

ROWS = [
    {
        "prompt": f"Q: {a}+{b}\nA:",
        "completion": f" {a + b + (a + b) % 2}",
        "label": (a + b) % 2 == 0,
    }
    for a in range(6)
    for b in range(4)
]
RAW: dict[str, Any] = {"method": "kto", "batch_size": 6, "max_steps": 6, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("loss", ["kto", "apo_zero_unpaired", "bco"])
def test_desirable_completions_gain(
    run_recipe: Callable[..., Path], tmp_path: Path, loss: str
) -> None:
    data = write(tmp_path / "rows.jsonl", ROWS)
    folder = run_recipe(
        **{
            **RAW,
            "data": data,
            "eval_data": data,
            "losses": [loss],
            "batch_size": 12,
            "max_steps": 16,
        }
    )
    start, end = told(folder)[0], told(folder)[-1]
    assert start["eval_rewards/chosen"] == pytest.approx(0, abs=1e-4)
    assert (
        end["eval_rewards/chosen"] > end["eval_rewards/rejected"]
        and end["eval_loss"] < start["eval_loss"]
    )
    assert ("kl" in end) == (loss == "kto") and ("rewards/shift" in end) == (loss == "bco")


@pytest.mark.parametrize("cached", [False, True], ids=["kept", "cached"])
def test_resume_is_exact(run_recipe: Callable[..., Path], tmp_path: Path, cached: bool) -> None:
    """KTO's KL and BCO's running shift are what they would have been."""
    data = write(tmp_path / "rows.jsonl", ROWS)
    raw = {
        **RAW,
        "data": data,
        "losses": ["kto", {"name": "bco", "weight": 0.5}],
        "cache_reference": cached,
    }
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 3, **raw)
    assert weights(whole) == weights(half) and told(whole) == told(half)
    state = json.loads((half / "checkpoint-6" / "trainer_state.json").read_text())["source"]
    assert set(state["means"]) == {"0", "1"}


def test_what_is_measured_before_a_step(tiny_folder: Path) -> None:
    """kl is the mean log-ratio of mismatched completions, from plain forward passes; shift lies
    between the kinds' means.
    """
    model = load_model(str(tiny_folder), dtype="float32", reference=True)
    with torch.no_grad():
        for p in model.hf.parameters():
            p.mul_(1.1)
    sequences = encode_labelled(ROWS[:6], model.tokenizer).sequences
    partners = mismatched(sequences, seed=0, max_length=64)
    options: dict[str, Any] = {"model": model, "batch_size": 6, "seed": 0, "max_tokens": 40}
    source = UnpairedSource(sequences, partners, wanted={"kl", "shift", "logprobs"}, **options)

    def ratio(sequence: Any) -> float:
        ids = torch.tensor(sequence.ids)[None]
        places = np.flatnonzero(sequence.loss_mask)
        sums = []
        for hf in (model.hf, model._frozen):
            with torch.no_grad():
                logp = hf(ids).logits[0].double().log_softmax(-1)
            sums.append(sum(float(logp[i - 1, sequence.ids[i]]) for i in places))
        return sums[0] - sums[1]

    (batch,) = source.batches(0)
    values = batch.trees[0].sequences[0].values
    assert values["kl"] == pytest.approx(
        max(np.mean([ratio(partners[id(s)]) for s in sequences]), 0), abs=1e-4
    )
    means = [
        np.mean([ratio(s) for s in sequences if s.values["label"] == label]) for label in (0, 1)
    ]
    assert values["shift"] == pytest.approx(np.mean(means), abs=1e-4)
    for s in sequences:
        start = int(np.argmax(s.loss_mask))
        other = partners[id(s)]
        assert (
            np.array_equal(other.ids[:start], s.ids[:start]) and not other.loss_mask[:start].any()
        )
        assert any(
            np.array_equal(other.ids[start:], o.ids[int(np.argmax(o.loss_mask)) :])
            for o in sequences
            if o is not s
        )
    # The order of rows and of micro-batches does not matter, and a log-ratio below 0 on average
    # counts as none.
    again = UnpairedSource(sequences, partners, wanted={"kl"}, **{**options, "max_tokens": 4000})
    kl = again.measured([[s] for s in sequences[::-1]]).trees[0].sequences[0].values["kl"]
    assert kl == pytest.approx(values["kl"], abs=1e-5)


def test_rows_of_one_kind_or_prompt(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    good = [r for r in ROWS if r["label"]]
    data = write(tmp_path / "rows.jsonl", good)
    run_recipe(**{**RAW, "data": data, "max_steps": 1})
    assert (
        "rows are desirable: what is learnt has no counterweight"
        in (tmp_path / "console.txt").read_text()
    )
    for rows, loss, message in (
        (good, "bco", "rows are desirable; the loss bco tells the two kinds apart and needs both"),
        ([{**r, "prompt": "same"} for r in ROWS], "kto", "all rows have the same prompt"),
        (ROWS[:1], "kto", "at least two rows"),
    ):
        with pytest.raises((DataError, ConfigError), match=message):
            run_recipe(
                **{
                    **RAW,
                    "data": write(tmp_path / "r.jsonl", rows),
                    "losses": [loss],
                    "output": str(tmp_path / "none"),
                }
            )
    assert not (tmp_path / "none").exists()


def test_pairs_are_taken_apart(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i}:", "chosen": f" {i}", "rejected": f" {i + 1}"} for i in range(5)]
    folder = run_recipe(
        **{**RAW, "data": write(tmp_path / "p.jsonl", rows), "max_steps": None, "batch_size": 5}
    )
    assert len(told(folder)) == 2  # ten completions
