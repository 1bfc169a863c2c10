"""What methods that learn from comparisons share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import checked, told, write

from posttrain.config import Component
from posttrain.data.forest import TokenSequence
from posttrain.errors import ConfigError, DataError
from posttrain.methods.comparisons import check_carried, losses_text
from posttrain.training.objective import Objective

ROWS = [
    {"prompt": f"Q: {a}+{b}\nA:", "chosen": f" {a + b}", "rejected": f" {a + b + 1 + a % 2}"}
    for a in range(6)
    for b in range(4)
]
RAW: dict[str, Any] = {"method": "dpo", "batch_size": 8, "max_steps": 4, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reference"


def test_unlikely_pairs_are_left_out(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    """A model that learnt to write digits finds other letters unlikely."""
    easy = [{"prompt": "Q", "completion": f" {i}"} for i in range(10, 60)]
    first = run_recipe(
        method="sft",
        data=write(tmp_path / "s.jsonl", easy),
        max_steps=60,
        batch_size=16,
        learning_rate=5e-3,
        output=str(tmp_path / "first"),
    )
    pairs = [{"prompt": "Q", "chosen": f" {i}", "rejected": f" {i + 9}"} for i in range(12, 40)]
    odd = [
        {"prompt": "Q", "chosen": " 12", "rejected": " §ÄÖ"},
        {"prompt": "Q", "chosen": " xyzzy", "rejected": " 13"},
    ]
    raw = {
        **RAW,
        "model": {"path": str(first / "model"), "dtype": "float32"},
        "max_steps": None,
        "perplexity_samples": 32,
    }
    folder = run_recipe(
        **raw, data=write(tmp_path / "p.jsonl", pairs + odd), perplexity_percentile=99
    )
    assert (
        told(folder)[0] == {"step": 0, "data/perplexity_dropped": 2.0}
        and len(told(folder)) == 1 + 4
    )
    assert "2 of 30 pairs are above perplexity" in (tmp_path / "console.txt").read_text()
    with pytest.raises(DataError, match="perplexity_percentile"):
        run_recipe(
            **raw,
            data=write(tmp_path / "p.jsonl", odd),
            perplexity_percentile=50,
            output=str(tmp_path / "none"),
        )


def test_held_out_pairs_need_the_margin_too(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    data = write(tmp_path / "pairs.jsonl", [{**row, "margin": 1.0} for row in ROWS])
    with pytest.raises(ConfigError, match="'odpo'.*margin.*eval_data"):
        run_recipe(
            **{
                **RAW,
                "data": data,
                "eval_data": write(tmp_path / "others.jsonl", ROWS),
                "losses": ["odpo"],
            }
        )


def test_whole_completions_are_compared(tmp_path: Path, tiny_folder: Path) -> None:
    data = {"path": write(tmp_path / "pairs.jsonl", ROWS), "train_on": "last"}
    with pytest.raises(ConfigError, match=r"data\.train_on"):
        checked(tmp_path, tiny_folder, **RAW, data=data)


def test_the_losses_are_shown_with_their_weights() -> None:
    terms = [Component("dpo"), Component("nll", weight=0.25)]
    objective = Objective(terms, roles=("chosen", "rejected"))
    assert losses_text(objective) == "dpo x 1, nll x 0.25"


def test_a_check_counts_shared_tokens_and_names_the_reference(
    tmp_path: Path, tiny_folder: Path
) -> None:
    data = write(tmp_path / "pairs.jsonl", ROWS)
    text = checked(tmp_path, tiny_folder, **RAW, data=data)
    assert f"{len(ROWS)} of {len(ROWS)} rows" in text and "frozen reference" in text
    match = re.search(r"(\d+), of which (\d+) distinct", text)
    assert match is not None and int(match[2]) < int(match[1])
    alone = checked(tmp_path, tiny_folder, **RAW, data=data, losses=["simpo"])
    assert "frozen reference" not in alone


def test_a_third_text_is_needed_by_losses_of_gold() -> None:
    sequence = TokenSequence(np.array([1, 2]), np.array([False, True]))
    roles = ("chosen", "rejected", "gold")
    objective = Objective([Component("tpo"), Component("gold_nll")], roles=roles)
    check_carried(objective, [sequence], roles)
    with pytest.raises(ConfigError, match=r"gold_nll.*reference.*eval_data"):
        check_carried(objective, [sequence], roles[:2], where="eval_data")
