"""When a model is measured while it trains, and what is written of it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from posttrain.training.folder import RunFolder
from posttrain.training.measurement import HeldOut, Measured


@pytest.mark.parametrize(
    ("steps", "every", "expected"), [(5, 0, [5]), (5, 2, [2, 4, 5]), (4, 2, [2, 4])]
)
def test_held_out_data_are_measured_every_so_often_and_at_the_end(
    steps: int, every: int, expected: list[int]
) -> None:
    hook = HeldOut(lambda: {"eval_loss": 1.0}, steps, every)
    measured = []
    for step in range(1, steps + 1):
        metrics: dict[str, float] = {"loss": 2.0}
        hook(step, metrics)
        assert metrics["loss"] == 2.0
        measured += [step] if "eval_loss" in metrics else []
    assert measured == expected


class Outcome:
    def __init__(self, number: int) -> None:
        self.number = number

    def metrics(self) -> dict[str, Any]:
        return {"accuracy": {"estimate": 0.1 * self.number}, "mean_tokens": 7.0, "truncated": 0.5}

    def to_json(self) -> dict[str, Any]:
        return {"number": self.number}


class Evaluating:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0
        self.reported: list[int] = []

    def of(self, model: Any) -> Outcome:
        self.calls += 1
        return Outcome(self.calls)

    def report(self, evaluation: Outcome, console: Console) -> None:
        self.reported.append(evaluation.number)


QUIET = Console(file=io.StringIO())


def test_the_measurement_of_the_last_step_is_the_final_one(tmp_path: Path) -> None:
    evaluating = Evaluating()
    measured = Measured(evaluating)
    hook = measured.hook(None, steps=4, every=2)
    rows: list[dict[str, float]] = [{} for _ in range(4)]
    for step, metrics in enumerate(rows, start=1):
        hook(step, metrics)
    assert rows[0] == rows[2] == {}
    assert rows[1] == {
        "evaluation/accuracy": 0.1,
        "evaluation/mean_tokens": 7.0,
        "evaluation/truncated": 0.5,
    }
    folder = RunFolder(tmp_path, {})
    assert measured.after_training(None, folder, QUIET).number == 2
    assert evaluating.calls == 2 and evaluating.reported == [2]
    values = json.loads((tmp_path / "evaluation.json").read_text())
    assert values["number"] == 2 and values["seconds"] >= 0


def test_a_model_is_measured_at_the_end_where_the_last_step_was_not() -> None:
    evaluating = Evaluating()
    measured = Measured(evaluating)
    hook = measured.hook(None, steps=5, every=2)
    for step in range(1, 6):
        hook(step, {})
    assert evaluating.calls == 2
    assert measured.after_training(None, None, QUIET).number == 3
