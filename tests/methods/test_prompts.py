"""Prompts of a task for a method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import checked, lines, prompts_task, write

from posttrain.errors import (
    ConfigError,
    DataError,
)

TASK = {"name": "arithmetic", "num_examples": 24, "num_steps": 1}


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "error", "named"),
    [
        ("a" * 600, 8, DataError, "context of 512.*601"),
        ("a" * 5, 510, ConfigError, "max_tokens.* 506"),
    ],
)
def test_prompts_that_do_not_fit(
    tmp_path: Path,
    tiny_folder: Path,
    prompt: str,
    max_tokens: int,
    error: type[Exception],
    named: str,
) -> None:
    rows = [{"prompt": prompt, "answer": "1"}]
    task = {"name": "jsonl", "path": write(tmp_path / "rows.jsonl", rows)}
    with pytest.raises(error, match=named):
        checked(
            tmp_path, tiny_folder, method="grpo", task=task, sampling={"max_tokens": max_tokens}
        )


def test_long_prompts_are_dropped_counted_and_bounded(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    raw: dict[str, Any] = {
        "method": "grpo",
        "rewards": [{"name": "length", "target": 6}],
        "batch_size": 2,
        "num_generations": 2,
        "sampling": {"max_tokens": 8},
        "max_steps": 1,
    }
    text = checked(tmp_path, tiny_folder, **raw, task=prompts_task(tmp_path, 2))
    assert "18 prompts of 6 to 6 tokens" in text
    assert (
        "2 of 20 dropped: with 8 new tokens they exceed the model's context of 512 (the longest, "
        "p0, has 601 tokens)" in text
    )
    with pytest.raises(
        DataError,
        match=r"3 of 20 .*max_prompts_dropped=0\.15",
    ):
        checked(tmp_path, tiny_folder, **raw, task=prompts_task(tmp_path, 3))
    assert "3 of 20 dropped" in checked(
        tmp_path, tiny_folder, **raw, task=prompts_task(tmp_path, 3), max_prompts_dropped=0.15
    )
    with pytest.raises(ConfigError, match="max_prompts_dropped: 1.5"):
        checked(
            tmp_path, tiny_folder, **raw, task=prompts_task(tmp_path, 3), max_prompts_dropped=1.5
        )
    folder = run_recipe(**raw, task=prompts_task(tmp_path, 2))
    assert lines(folder / "metrics.jsonl")[0] == {"step": 0, "data/prompts_dropped": 2.0}
    assert "prompts lost: 2 of 20 dropped" in (tmp_path / "console.txt").read_text()
