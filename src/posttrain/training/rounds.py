"""The rounds of a loop: runs of `fit`, each in a folder of its own, numbered on."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from posttrain.errors import ModelError
from posttrain.files import write_text_whole, written_whole
from posttrain.models.language_model import LanguageModel
from posttrain.models.loaded import LoadedModel, trained_weights
from posttrain.models.spec import ModelSpec
from posttrain.terminal import write_rule
from posttrain.training import checkpoint
from posttrain.training.ending import Interrupted
from posttrain.training.folder import RunFolder
from posttrain.training.hooks import Hook
from posttrain.training.plan import Plan
from posttrain.training.result import Result, read_lines
from posttrain.training.resume import IN_PYTHON
from posttrain.training.rollout_rows import RolloutRow, read_rows, write_rows
from posttrain.training.session import Session
from posttrain.training.settings import TrainingSettings

ROWS = "rows.jsonl"
"""What a round has sampled."""


class Rounds:
    """The rounds of a loop.

        for number in range(3):
            rows = rounds.rows(sample)
            rounds.fit(plan_of(rows), steps=50)

    Each `fit` goes on from the one before: optimiser, random numbers and the count of steps. With a
    folder, round n is a run in `round-n`. Rounds that are done are read and not trained; one that
    was cut off goes on from its checkpoint, with the rows that it had sampled.

    Args:
        spec: the model of the start. folder: of the loop; None keeps everything in memory.
        steps: of all rounds, which the schedule of the learning rate is over.
        keep_start: keep a copy of the trained weights of the start, for rounds that begin there.
        hooks: called after each step of any round, with the number of steps of all; none is closed.
        first_metrics: of the data, which stand at step 0.
    """

    def __init__(
        self,
        spec: ModelSpec,
        settings: TrainingSettings,
        *,
        folder: RunFolder | None,
        steps: int,
        seed: int,
        console: Console,
        title: str,
        keep_start: bool = False,
        hooks: Sequence[Hook] = (),
        first_metrics: dict[str, float] | None = None,
    ) -> None:
        self.spec, self.folder, self.steps, self.seed = spec, folder, steps, seed
        # What belongs to the loop as a whole is not done by each round.
        self.settings = dataclasses.replace(settings, report_to=(), save_final=True)
        self.keep_start, self.hooks = keep_start, list(hooks)
        self.console, self.title = console, title
        self.first_metrics = dict(first_metrics or {})
        self.results: list[Result] = []
        self._model: LanguageModel | None = None
        self._start: dict[str, Tensor] = {}
        self._pending: Path | None = None  # weights of a round that is done, not loaded yet

    @property
    def number(self) -> int:
        """The number of the round at hand, from 0."""
        return len(self.results)

    @property
    def step(self) -> int:
        """Steps of the rounds that are done."""
        return self.results[-1].step if self.results else 0

    @property
    def path(self) -> Path | None:
        """The folder of the round at hand."""
        return None if self.folder is None else self.folder.path / f"round-{self.number + 1}"

    @property
    def model(self) -> LanguageModel:
        """The model as the rounds that are done have left it."""
        if self._model is None:
            self._model = self.spec.load()
            if self.keep_start:
                self._start = trained_weights(self._model)
        if self._pending is not None:
            LoadedModel(self._model).load(weights=self._pending)
            self._model.fresh_adapters = False
            self._pending = None
        return self._model

    def rows(
        self, sample: Callable[[Rounds, list[RolloutRow]], list[RolloutRow]]
    ) -> list[RolloutRow]:
        """What the round has sampled: from its file, or by `sample`, and then written there.

        Args:
            sample: (rounds, rows of the file) -> all rows of the round. Only what samples reads
                `rounds.model`.
        """
        path = self.path
        before = [] if path is None else read_rows(path / ROWS)
        rows = sample(self, before)
        if path is not None and len(rows) != len(before):
            path.mkdir(exist_ok=True)
            write_rows(path / ROWS, rows)
        return rows

    def fit(self, plan: Plan, *, steps: int, restart: bool = False) -> Result:
        """Train the round at hand.

        Args:
            steps: of this round.
            restart: from the weights of the start, with a fresh optimiser.
        """
        path, end = self.path, self.step + steps
        if path is not None and _is_done(path, end):
            result = self._read(path)
            place = path / f"checkpoint-{end}"  # gone where another round has gone on from it
            self._pending = place if place.exists() else path / "model"
        else:
            result = self._train(plan, steps, restart)
        if self.number and path is not None:
            checkpoint.prune_checkpoints(path.with_name(f"round-{self.number}"), 0)
        self.results.append(result)
        return result

    def _train(self, plan: Plan, steps: int, restart: bool) -> Result:
        model, folder = self.model, None
        if restart and self.number:
            parameters = dict(model.hf.named_parameters())
            with torch.no_grad():
                for name, saved in self._start.items():
                    parameters[name].copy_(saved)
        if self.folder is not None:
            folder = self._round_folder(self.folder)
            write_rule(self.console, f"round {self.number + 1}")
        session = Session(
            LoadedModel(model),
            plan,
            self.settings,
            folder=folder,
            steps=steps,
            seed=self.seed,
            hooks=[_unclosed(hook) for hook in self.hooks],
            console=self.console,
            title=f"{self.title}, round {self.number + 1}",
            after=self.results[-1] if self.results else None,
            schedule_steps=self.steps,
            fresh_optimizer=restart,
            keeps_start=False,  # the loop's start and the rounds before give them again
        )
        result = session.run()
        if session.stopped and result.step < self.steps:
            place = "" if self.folder is None else f"; go on with: {self.folder.go_on(self.steps)}"
            raise Interrupted(f"stopped after step {result.step} of {self.steps}{place}")
        return result

    def _round_folder(self, whole: RunFolder) -> RunFolder:
        assert self.path is not None
        record = {**whole.record, IN_PYTHON: True, "round": self.number + 1}
        folder = RunFolder(
            self.path,
            record,
            command=whole.command,
            resume=(self.path / "recipe.yaml").exists(),
            accept=whole.accept,
            plugins=whole.plugins,
            console=self.console,
            seed=self.seed,
        )
        folder.caller = whole.caller
        return folder

    def _read(self, path: Path) -> Result:
        return Result(
            None,
            metrics=read_lines(path / "metrics.jsonl"),
            rollouts=read_lines(path / "rollouts.jsonl"),
            folder=path,
        )

    # -- the files of the loop

    def write_lines(self) -> None:
        """Write metrics.jsonl and rollouts.jsonl of all rounds, with what there is of the last."""
        assert self.folder is not None
        for name in ("metrics.jsonl", "rollouts.jsonl"):
            lines = [f"{json.dumps(row, ensure_ascii=False)}\n" for row in self._lines_of(name)]
            if lines:
                text = "".join(lines)
                write_text_whole(self.folder.path / name, text, errors="backslashreplace")

    def _lines_of(self, name: str) -> list[dict[str, Any]]:
        assert self.folder is not None
        first = [{"step": 0, **self.first_metrics}] if self.first_metrics else []
        rows = first if name == "metrics.jsonl" else []
        for place in round_folders(self.folder.path):
            rows += _whole_lines(place / name)
        return rows

    def write_model(self) -> None:
        """The model of the last round as that of the loop. Files are linked, not copied, where the
        file system can.
        """
        assert self.folder is not None
        with written_whole(self.folder.path / "model") as place:
            last = round_folders(self.folder.path)[-1]
            shutil.copytree(last / "model", place, copy_function=_link, dirs_exist_ok=True)

    def result(self, evaluation: Any) -> Result:
        """The result of all rounds."""
        if self.folder is None:
            first = [{"step": 0, **self.first_metrics}] if self.first_metrics else []
            metrics = first + [row for r in self.results for row in r.metrics]
            rollouts = [row for r in self.results for row in r.rollouts]
        else:
            metrics, rollouts = (
                read_lines(self.folder.path / name) for name in ("metrics.jsonl", "rollouts.jsonl")
            )
        if not self.results:
            raise ModelError("a loop ended without a round")
        return Result(
            self.model,
            metrics=metrics,
            rollouts=rollouts,
            folder=None if self.folder is None else self.folder.path,
            evaluation=evaluation,
            state=self.results[-1].take_state() if self.folder is None else None,
        )


def round_folders(path: Path) -> list[Path]:
    """The folders of a loop's rounds, in order."""
    numbers = {
        int(place.name.removeprefix("round-")): place
        for place in path.glob("round-*")
        if place.name.removeprefix("round-").isdigit()
    }
    return [numbers[number] for number in sorted(numbers)]


def _is_done(path: Path, end: int) -> bool:
    """Whether a round was trained up to its last step."""
    rows = read_lines(path / "metrics.jsonl") if (path / "model").exists() else []
    return bool(rows) and rows[-1]["step"] == end


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file up to a line that a killed process left half written."""
    text = path.read_bytes().decode("utf-8", errors="replace") if path.is_file() else ""
    rows = []
    for line in text.split("\n"):
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _unclosed(hook: Hook) -> Hook:
    """A hook that outlives a round."""

    def call(step: int, metrics: dict[str, float]) -> None:
        hook(step, metrics)

    return call


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
