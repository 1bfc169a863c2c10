"""KTO and its kin as whole runs on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import stopped_and_resumed, told, weights, write

from posttrain.errors import ConfigError, DataError

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


def test_rows_of_one_kind_or_prompt(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    good = [r for r in ROWS if r["label"]]
    data = write(tmp_path / "rows.jsonl", good)
    run_recipe(**{**RAW, "data": data, "max_steps": 1})
    assert "no counterweight" in (tmp_path / "console.txt").read_text()
    for rows, loss, message in (
        (good, "bco", "bco"),
        ([{**r, "prompt": "same"} for r in ROWS], "kto", "same prompt"),
        (ROWS[:1], "kto", "two rows"),
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
