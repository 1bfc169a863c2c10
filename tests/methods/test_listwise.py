"""Listwise preference optimisation as whole runs on a tiny model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import checked, told, write

from posttrain.errors import DataError

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


def test_the_columns_of_lists_are_named(tmp_path: Path, tiny_folder: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", [{"prompt": "a", "answer": "1"}] * 2)
    with pytest.raises(DataError, match="completions"):
        checked(tmp_path, tiny_folder, **LIST, data=rows)


def test_a_check_counts_lists_and_shared_tokens(tmp_path: Path, tiny_folder: Path) -> None:
    rows = [*LISTS, {"prompt": "tie", "completions": ["a", "b"], "scores": [1, 1]}]
    text = checked(tmp_path, tiny_folder, **LIST, data=write(tmp_path / "lists.jsonl", rows))
    assert f"{len(LISTS)} of {len(rows)} rows" in text
    tokens, distinct = re.search(r"(\d+), of which (\d+) distinct", text).groups()
    assert int(distinct) < int(tokens)
    assert "2 to 3 completions" in text
