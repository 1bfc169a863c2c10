"""Rows that the gold answer chose are reported as an oracle's choice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.recipe import parse_recipe
from posttrain.runs import run_of

TASK: dict[str, Any] = {
    "name": "arithmetic",
    "num_steps": 1,
    "max_operand": 9,
    "max_value": 20,
    "num_examples": 4,
}
RAW: dict[str, Any] = {
    "method": "sample",
    "task": TASK,
    "num_generations": 2,
    "sampling": {"max_tokens": 6},
}


@pytest.mark.parametrize(
    ("change", "chosen"),
    [
        ({}, False),  # every completion is kept, whatever its reward
        ({"max_per_prompt": 1}, True),
        ({"min_reward": 0.0, "rewards": ["exact", "length"]}, True),
        ({"max_per_prompt": 1, "rewards": ["length"]}, False),
    ],
)
def test_rows_that_the_gold_chose_are_reported(
    run_recipe: Callable[..., Path],
    tmp_path: Path,
    tiny_folder: Path,
    change: dict[str, Any],
    chosen: bool,
) -> None:
    raw = {**RAW, "keep_truncated": True, **change}
    facts = dict(
        run_of(parse_recipe({**raw, "model": str(tiny_folder), "output": "x"}, tmp_path))
        .prepared()
        .facts
    )
    assert ("an oracle's choice, by" in facts["selected"]) == chosen
    run_recipe(**raw)
    printed = (tmp_path / "console.txt").read_text()
    assert (
        "chose the rows by the gold answer; they teach, and are no result of the model" in printed
    ) == chosen
