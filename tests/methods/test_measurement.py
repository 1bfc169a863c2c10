"""Evaluations by a method: their prompts, their report, their critic."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import checked, write

from posttrain.errors import DataError


def test_an_evaluation_meets_only_the_prompts_it_asks(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    from posttrain.evaluation.outcomes import read_evaluation
    from posttrain.report.html import write_report

    rows = [
        {"prompt": "a" * (600 if i in (3, 15, 16, 17) else 5), "answer": "1", "id": f"p{i}"}
        for i in range(20)
    ]
    task = {"name": "jsonl", "path": write(tmp_path / "prompts.jsonl", rows)}

    def evaluated(num: int) -> dict[str, Any]:
        return {
            "method": "evaluate",
            "evaluation": {"task": task, "num_examples": num, "sampling": {"max_tokens": 4}},
        }

    assert "prompts lost" not in checked(tmp_path, tiny_folder, **evaluated(3))
    folder = run_recipe(**evaluated(12))
    assert [o.id for o in read_evaluation(folder).outcomes] == [
        f"p{i}" for i in range(12) if i != 3
    ]
    text = (tmp_path / "console.txt").read_text()
    assert "; 1 prompts too long for the context dropped" in text
    assert "evaluation prompts dropped as too long" in write_report(folder).read_text()
    with pytest.raises(DataError, match="4 of 20 prompts leave no room"):
        checked(tmp_path, tiny_folder, **evaluated(20))
