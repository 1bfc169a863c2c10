"""A run whose training is done: its result, and its evaluation where that is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from posttrain.training import resume
from posttrain.training.folder import RunFolder
from posttrain.training.measurement import Measured
from posttrain.training.result import Result, read_lines


def finished(
    folder: RunFolder,
    start: resume.Start,
    steps: int,
    measured: Measured | None,
    load: Callable[[], Any],
    longer: str,
    in_memory: bool,
) -> Result:
    """The result of a run whose training is done; its evaluation is made where it is missing.

    Args:
        steps: of the run. load: gives the trained model. longer: how it is trained on.
        in_memory: whether the caller's own model takes the trained weights, at once.

    Raises:
        CheckpointError: changes that would need training.
    """
    resume.refuse_late_changes(start, steps)
    path = folder.path / "evaluation.json"
    # The folder's recipe is the one that the evaluation there was made by; the checkpoint's may be
    # older.
    again = any(c.name.startswith("evaluation") for c in folder.changes())
    if measured is None or (path.exists() and not again):
        folder.write(f"{folder.path} is finished. {longer}")
        model = load() if in_memory else None
    else:
        folder.write(f"{folder.path} is trained; what is left is its evaluation")
        folder.write(*(f"  changed: {change.text}" for change in start.changes))
        model = load()
        folder.before_open()
        if path.exists():
            saved_as = resume.set_evaluation_aside(start).name
            folder.write(f"  the earlier {path.name} is now {saved_as}")
        folder.open()
        model.eval()
        measured.after_training(model, folder, folder.console)
    return Result(
        model,
        metrics=read_lines(folder.path / "metrics.jsonl"),
        rollouts=read_lines(folder.path / "rollouts.jsonl"),
        folder=folder.path,
        load=load,
    )
