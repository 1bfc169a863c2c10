"""Pipelines: stages that are checked together and compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from posttrain.errors import (
    ConfigError,
    DataError,
)

TASK = {"name": "arithmetic", "num_examples": 24, "num_steps": 1}


def test_pipeline_compares_stages(run_recipe: Callable[..., Path]) -> None:
    folder = run_recipe(
        method="pipeline",
        evaluation={
            "task": {"name": "arithmetic", "split": "test", "num_examples": 6},
            "num_samples": 4,
            "sampling": {"max_tokens": 8},
        },
        stages=[
            {"name": "base", "method": "evaluate"},
            {"name": "sft", "method": "sft", "task": TASK, "max_steps": 2},
            {
                "name": "grpo",
                "method": "grpo",
                "task": TASK,
                "max_steps": 1,
                "sampling": {"max_tokens": 8},
            },
            {
                "name": "vote",
                "method": "evaluate",
                "search": {"name": "majority_vote", "num_samples": 4},
            },
        ],
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert [r["stage"] for r in summary["rows"]] == ["base", "sft", "grpo", "vote"]
    assert summary["rows"][0]["p_value"] is None and summary["rows"][1]["p_value"] is not None
    assert summary["rows"][3]["note"] == "majority vote of 4"
    from posttrain.report.html import write_report

    assert "Stages" in write_report(folder).read_text()


def test_a_mistake_in_a_late_stage_is_found_before_the_first(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    first = {"name": "sft", "method": "sft", "task": TASK, "max_steps": 2}
    late = {
        "name": "grpo",
        "method": "grpo",
        "task": {**TASK, "num_steps": 9, "max_value": 1},
        "max_steps": 1,
    }
    with pytest.raises(ConfigError, match="stage 'grpo': .*num_steps"):
        run_recipe(method="pipeline", stages=[first, late])
    data = {"name": "more", "method": "sft", "data": str(tmp_path / "absent.jsonl")}
    with pytest.raises(DataError, match="stage 'more': .*absent.jsonl"):
        run_recipe(method="pipeline", stages=[first, data])
    assert not (tmp_path / "run").exists()
