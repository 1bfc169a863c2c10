"""What went wrong: counted where it happened, and only what was checked is said to be right."""

from __future__ import annotations

from pathlib import Path

from posttrain.report.failures import failures, failures_of
from posttrain.report.records import Completion, Group, RewardMeasured, RunFolder


def run(**values: object) -> RunFolder:
    return RunFolder(Path("r"), **values)  # type: ignore[arg-type]


def test_only_what_was_checked_is_said() -> None:
    trained = failures([("a", run(metrics=[{"step": 1, "loss": 1.0}]))])
    assert "no row of the data" in trained and "no completion was cut off" not in trained
    reward = failures([("a", run(reward=RewardMeasured(rows=3)))])
    assert "no row of the data" not in reward and "score" in reward


def test_failures_are_counted() -> None:
    metrics = [{"step": s, "completions/clipped_ratio": 0.5, "rewards/errors": 2} for s in (1, 2)]
    group = Group(1, "", "p", None, (Completion("x", error="task: no"), Completion("y")))
    lines = dict(failures_of(run(metrics=metrics, rollouts=[group], cut_off=["metrics.jsonl"])))
    assert lines["completions cut off at the length limit"] == "50.0% in training"
    assert lines["reward functions that failed"] == "4 completions got no reward"
    assert lines["among the logged completions: task: no"] == "once"
    assert "metrics.jsonl ends in a half-written line" in lines


def test_stages_are_named_where_there_are_several() -> None:
    broken = run(metrics=[{"step": 1, "loss": None}])
    table = failures([("sft", broken), ("grpo", run(metrics=[{"step": 1}]))])
    assert '<th scope="row">sft</th>' in table and "grpo" not in table
