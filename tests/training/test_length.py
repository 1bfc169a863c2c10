"""How long a run is, and whether another length would have changed the steps done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import CheckpointError
from posttrain.training import resume
from posttrain.training.caller import Caller
from posttrain.training.length import Length

LINEAR = {"lr_scheduler_type": "linear", "warmup_steps": 0.0, "min_lr_ratio": 0.0}
CONSTANT = {**LINEAR, "lr_scheduler_type": "constant"}


def started(folder: Path, step: int, steps: int, **options: Any) -> resume.Start:
    saved = {"global_step": step, "steps": steps}
    return resume.Start(folder, folder / f"checkpoint-{step}", saved, **options)


@pytest.mark.parametrize(
    ("schedule", "steps", "reasons", "refused"),
    [
        (CONSTANT, 8, [], False),
        (LINEAR, 8, [], True),
        (LINEAR, 4, [], False),  # as long as before
        (CONSTANT, 8, ["adalora prunes"], True),
        (
            {**CONSTANT, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2.0},
            8,
            [],
            False,
        ),
        (
            {**CONSTANT, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0.5},
            8,
            [],
            True,
        ),
    ],
)
def test_a_length_changes_a_run_where_its_rates_would_have_been_others(
    tmp_path: Path, schedule: dict[str, Any], steps: int, reasons: list[str], refused: bool
) -> None:
    change = Length(steps, schedule, reasons=reasons).change(started(tmp_path, 3, 4))
    assert (change is not None) == refused
    if change is not None:
        assert (change.name, change.rule, change.text) == ("max_steps", "accept", "steps: 4 -> 8")
        assert all(reason in change.reason for reason in reasons)


def test_a_run_cannot_be_shorter_than_what_is_done(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="max_steps: 2"):
        Length(2, CONSTANT).change(started(tmp_path, 3, 4))


@pytest.mark.parametrize(("schedule", "accepts"), [(CONSTANT, False), (LINEAR, True)])
def test_how_a_finished_run_is_trained_on(tmp_path: Path, schedule: Any, accepts: bool) -> None:
    text = Length(4, schedule).longer(started(tmp_path, 4, 4))
    assert "max_steps=N" in text and ("--accept max_steps" in text) == accepts
    text = Length(4, schedule).longer(started(tmp_path, 4, 4, caller=Caller(python=True)))
    assert "steps=N" in text and ("accept=['max_steps']" in text) == accepts


def test_a_schedule_that_is_over_more_steps_is_no_change(tmp_path: Path) -> None:
    start = started(tmp_path, 3, 4)
    start.saved["schedule_steps"] = 100
    assert Length(8, LINEAR, schedule_steps=100).change(start) is None
    assert Length(8, LINEAR, schedule_steps=50).change(start) is not None
    assert "accept" not in Length(4, LINEAR, schedule_steps=100).longer(start)
