"""Pipelines: stages that are checked together and compared; the table of their evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.evaluation.outcomes import Evaluation, Outcome
from posttrain.loops.pipeline import SUMMARY, run_stages, write_summary

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


def stage(folder: Path, correct: list[list[int]] | None, *, prompt: str = "p", **more: Any) -> Any:
    """A stage whose evaluation has these verdicts; None was not evaluated."""
    folder.mkdir()
    if correct is not None:
        outcomes = [
            Outcome(str(i), f"{prompt}{i}", "1", row, [str(x) for x in row], [3] * len(row))
            for i, row in enumerate(correct)
        ]
        Evaluation("t", {}, 0, len(correct[0]), outcomes, **more).save(folder)
    return SimpleNamespace(folder=folder, title="")


def table(tmp_path: Path, stages: dict[str, Any], title: str = "") -> dict[str, Any]:
    write_summary(tmp_path, stages, {"a": 1.5}, title=title, command="posttrain run r.yaml")
    return dict(json.loads((tmp_path / SUMMARY).read_text()))


def test_a_row_per_evaluated_stage_compared_with_the_one_above(tmp_path: Path) -> None:
    wrong, right = [[0, 0]] * 8, [[1, 1]] * 8
    stages = {
        "a": stage(tmp_path / "a", wrong),
        "train": stage(tmp_path / "train", None),
        "b": stage(tmp_path / "b", right),
    }
    summary = table(tmp_path, stages, "mine")
    first, second = summary["rows"]
    assert (summary["title"], summary["command"]) == ("mine", "posttrain run r.yaml")
    assert (first["stage"], first["accuracy"], first["p_value"]) == ("a", 0.0, None)
    assert (second["folder"], second["accuracy"]) == ("b", 1.0)
    assert second["p_value"] < 0.05
    assert second["low"] <= second["accuracy"] <= second["high"]
    assert (first["seconds"], second["seconds"]) == (1.5, None)
    assert first["pass@k"] == {"2": 0.0} and second["maj@k"] == {"2": 1.0}
    assert first["mean_tokens"] == 3.0


def test_stages_with_other_questions_have_no_p_value(tmp_path: Path) -> None:
    stages = {
        "a": stage(tmp_path / "a", [[1]] * 4),
        "b": stage(tmp_path / "b", [[0]] * 4, prompt="q"),
    }
    rows = table(tmp_path, stages)["rows"]
    assert rows[1]["p_value"] is None and rows[1]["accuracy"] == 0.0


@pytest.mark.parametrize("oracle", [False, True])
def test_a_search_is_named_with_its_scorer(tmp_path: Path, oracle: bool) -> None:
    more = {
        "search": "best_of_n",
        "search_settings": {"num_samples": 4},
        "strategy": "best of 4",
        "scorer": {"name": "oracle" if oracle else "length"},
        "oracle": oracle,
    }
    (row,) = table(tmp_path, {"a": stage(tmp_path / "a", [[1]] * 2, **more)})["rows"]
    assert row["note"] == "best of 4" and row["search_settings"] == {"num_samples": 4}
    assert row["search"].startswith("best_of_n (num_samples 4)") and row["oracle"] is oracle


def test_a_pipeline_without_evaluations_has_an_empty_table(tmp_path: Path) -> None:
    summary = table(tmp_path, {"a": stage(tmp_path / "a", None)})
    assert summary["rows"] == [] and summary["title"] == "pipeline"


def test_stages_that_are_done_are_passed_over(tmp_path: Path) -> None:
    ran: list[str] = []

    def stage_of(name: str) -> Any:
        return SimpleNamespace(execute=lambda: ran.append(f"run {name}"))

    seconds: dict[str, float] = {"a": 1.5}
    run_stages(
        {name: stage_of(name) for name in "abc"},
        is_done=lambda name: name == "a",
        begin=lambda name: ran.append(f"begin {name}"),
        seconds=seconds,
    )
    assert ran == ["begin b", "run b", "begin c", "run c"]
    assert seconds["a"] == 1.5 and set(seconds) == {"a", "b", "c"}
