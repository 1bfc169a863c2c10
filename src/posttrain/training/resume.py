"""How a run is resumed: from which checkpoint, what has changed since, and what moves aside.
Nothing here trains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from posttrain.errors import CheckpointError
from posttrain.files import move
from posttrain.training import checkpoint
from posttrain.training.caller import SHELL, Caller
from posttrain.training.changes import Change, recipe_changes, refusals
from posttrain.yaml_reader import read_yaml_file

IN_PYTHON = "in_python"
"""Key of the recipe of a run that was started in Python, by objects that YAML cannot name."""

DONE = ("model", "evaluation.json", "forgetting.json")
"""What a finished run has and an unfinished one has not."""


@dataclasses.dataclass(slots=True)
class Start:
    """Where a training starts.

    Attributes:
        checkpoint: the folder to start from, None = the recipe's model. saved: its state. damaged:
        checkpoints that cannot
            be read, newest first, with the reason. changes: of the recipe and of what it names,
            since the checkpoint. caller: who asked, for messages.
    """

    folder: Path
    checkpoint: Path | None = None
    saved: dict[str, Any] = dataclasses.field(default_factory=dict)
    damaged: list[tuple[Path, str]] = dataclasses.field(default_factory=list)
    changes: list[Change] = dataclasses.field(default_factory=list)
    caller: Caller = SHELL

    @property
    def step(self) -> int:
        """Steps that are done."""
        return int(self.saved.get("global_step", 0))

    @property
    def has_model(self) -> bool:
        """Whether the run was trained to an end before."""
        return (self.folder / "model").exists()

    def give_version(self, model: Any) -> None:
        """Let a language model go on with the version of its weights."""
        if self.checkpoint is not None and hasattr(model, "weights_version"):
            model.weights_version = self.saved["weights_version"]

    def refuse(self, accepted: Collection[str]) -> None:
        """Refuse changes that nobody accepted, or that cannot be honoured.

        Raises:
            CheckpointError: lists them all, with the way out.
        """
        refused = refusals(self.changes, accepted)
        if not refused:
            return
        lines = "".join(f"\n  {c.text}{f' ({c.reason})' if c.reason else ''}" for c in refused)
        names = sorted({c.name for c in refused if c.rule == "accept"})
        out = []
        if names:
            out.append(f"To go on with the change from here, add {self.caller.accepting(names)}.")
        if any(c.rule == "refused" for c in refused):
            out.append(
                "What a checkpoint cannot take over needs a new run, for example from "
                f"its model: {self.caller.start_from(self._model())}."
            )
        raise CheckpointError(
            f"{self.folder} is not resumed, and nothing was changed in it: the result would not "
            "be that of an undisturbed "
            f"run.{lines}\n{' '.join(out)} To resume exactly, undo the change."
        )

    def _model(self) -> Path:
        return self.checkpoint or self.folder / "model"


def find_start(folder: Path, caller: Caller = SHELL) -> Start:
    """The newest whole checkpoint of a run, or the recipe's model where nothing was saved. Writes
    nothing.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    start = Start(folder, caller=caller)
    for path in reversed(checkpoint.checkpoints(folder)):
        try:
            start.saved = checkpoint.read_state(path)
            start.checkpoint = path
            return start
        except CheckpointError as error:
            start.damaged.append((path, str(error)))
    if start.damaged and not start.has_model:
        reasons = "".join(f"\n  {reason}" for _, reason in start.damaged)
        raise CheckpointError(
            f"no checkpoint of {folder} can be read:{reasons}\nStart a new run with another "
            "output=..."
        )
    return start


def recorded_recipe(folder: Path) -> dict[str, Any]:
    """The recipe that a run's folder holds, as plain values."""
    from posttrain.recipe import load_recipe, recipe_as_dict

    path = folder / "recipe.yaml"
    raw = read_yaml_file(path)
    if isinstance(raw, dict) and IN_PYTHON in raw:
        return raw
    return recipe_as_dict(load_recipe(path))


def announced(start: Start, steps: int) -> list[str]:
    """What a resume will do, as lines."""
    lines = [
        f"{path.name} is set aside as {_damaged_name(path).name}: {reason}"
        for path, reason in start.damaged
    ]
    if start.checkpoint is None:
        lines.append(
            f"{start.folder}: no checkpoint was saved; training starts at step 1 of {steps}"
        )
        return lines
    todo = (
        f"steps {start.step + 1} to {steps}"
        if start.step < steps
        else "all steps are done; what is left is to save model/"
    )
    lines.append(f"resuming {start.folder} from {start.checkpoint.name}: {todo}")
    accepted = {change.name for change in start.changes if change.rule == "accept"}
    for change in start.changes:
        told = change.rule == "length" and change.name in accepted  # its effect is told instead
        if change.name != "output" and not told:
            note = {"rounding": " (sums may round differently)", "accept": " (accepted)"}.get(
                change.rule, ""
            )
            lines.append(f"  changed: {change.text}{note}")
    lines += [
        f"  the previous {_listed(old)} moves to {_listed(new)}" for old, new in _moves(start)
    ]
    return lines


def set_aside(start: Start) -> None:
    """Move away what training on would overwrite: what a finished run left, damaged
    checkpoints, and later ones.
    """
    for path, _ in start.damaged:
        move(path, _damaged_name(path))
    for old, new in _moves(start):
        move(old, new)


def set_evaluation_aside(start: Start) -> Path:
    """Move evaluation.json away, for another one of the same model; returns its new place."""
    path = start.folder / "evaluation.json"
    target = _free(start.folder / f"evaluation-{start.saved.get('steps', 'before')}.json")
    move(path, target)
    return target


def _moves(start: Start) -> list[tuple[Path, Path]]:
    """evaluation.json first: killed between the two, the run lacks its evaluation and not its
    model.
    """
    step = start.saved.get("steps", "before")
    moves = []
    for name in reversed(DONE):
        path = start.folder / name
        if path.exists():
            moves.append((path, _free(path.with_name(f"{path.stem}-{step}{path.suffix}"))))
    return moves


def _listed(path: Path) -> str:
    """A name of the run's folder; a folder's ends in a slash."""
    return path.name if path.suffix else f"{path.name}/"


def _damaged_name(path: Path) -> Path:
    return _free(path.with_name(f"{path.name}.damaged"))


def _free(path: Path) -> Path:
    """The path, or the first of path-2, path-3, ... that is not taken."""
    candidates = [path, *(path.with_name(f"{path.stem}-{n}{path.suffix}") for n in range(2, 1000))]
    return next(p for p in candidates if not p.exists())


def changes_since(start: Start, record: Mapping[str, Any]) -> list[Change]:
    """The keys that differ from the checkpoint's recipe, or from the folder's where there is no
    checkpoint. record: the recipe of now, as plain values.
    """
    before = start.saved.get("recipe") or recorded_recipe(start.folder)
    model = record.get("model")
    in_memory = isinstance(model, Mapping) and model.get("in_memory")
    return [
        # How the weights of a model in memory arose is all one: the checkpoint's take their place.
        dataclasses.replace(c, rule="content") if in_memory and c.name == "model.init" else c
        for c in recipe_changes(before, record)
    ]


def refuse_late_changes(start: Start, steps: int) -> None:
    """Refuse changes of a run whose training is done, where they would need training.

    Raises:
        CheckpointError: lists the changes that would do nothing.
    """
    late = [c for c in start.changes if c.rule not in ("free", "rounding", "content")]
    longer = [c for c in late if c.rule == "length"]
    if not late or (start.checkpoint is not None and late == longer):
        return
    where = (
        "no checkpoint is left to train on from"
        if start.checkpoint is None
        else f"all {steps} steps are done"
    )
    texts = [*(c.text for c in late), *(reason for _, reason in start.damaged)]
    lines = "".join(f"\n  {text}" for text in texts)
    new = f"start a new run from its model: {start.caller.start_from(start.folder / 'model')}"
    out = f"To train on, {new}"
    if start.checkpoint is not None:
        out = f"Raise {start.caller.length}, or {new}"
    raise CheckpointError(
        f"{start.folder} is trained to its end and {where}; these changes would do nothing:{lines}"
        f"\n{out}"
    )
