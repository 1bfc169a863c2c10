"""One run of a loop: its rounds, their tables in one place, the model and its evaluation."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain.errors import CheckpointError
from posttrain.files import write_text_whole
from posttrain.models.spec import ModelSpec
from posttrain.terminal import write
from posttrain.training import checkpoint, resume
from posttrain.training.ending import closing, resumed_as
from posttrain.training.finished import finished
from posttrain.training.folder import RunFolder
from posttrain.training.hooks import Hook
from posttrain.training.lock import locked
from posttrain.training.measurement import Evaluating, Measured
from posttrain.training.plan import Loop, PreparedLoop
from posttrain.training.result import Result
from posttrain.training.rounds import Rounds, round_folders
from posttrain.training.settings import TrainingSettings
from posttrain.training.tracking import build_trackers, check_trackers

STATE = "rounds.json"
"""What the rounds are made from: recipe, number of steps, digests of prompts and weights."""


class LoopSession:
    """One run of a loop. Its arguments are those of `Session`.

    Args:
        work: the loop prepared for this model, where that was done before.
    """

    def __init__(
        self,
        spec: ModelSpec,
        loop: Loop,
        settings: TrainingSettings,
        *,
        folder: RunFolder | None,
        steps: int | None,
        seed: int,
        hooks: Sequence[Hook] = (),
        evaluation: Evaluating | None = None,
        console: Console,
        title: str = "",
        work: PreparedLoop | None = None,
    ) -> None:
        check_trackers(list(settings.report_to))
        self.spec, self.loop, self.settings, self.folder = spec, loop, settings, folder
        self.seed, self.hooks, self.console = seed, list(hooks), console
        self.title = title or loop.method
        self.work = work or loop.prepare(spec, seed, steps)
        self.measured = Measured(evaluation) if evaluation is not None else None

    def run(self) -> Result:
        """Run the rounds, save and measure."""
        if self.folder is None:
            return self.run_in_folder()
        self.folder.refuse_existing()
        with locked(self.folder.path):
            self.folder.refuse_existing()
            return self.run_in_folder()

    def run_in_folder(self) -> Result:
        """As `run`, for a caller that holds the folder's lock."""
        losses = self.work.account.losses.items()
        for text in [*(f"{name}: {text}" for name, text in losses), *self.work.notes]:
            write(self.console, text, style="yellow")
        try:
            start = self._start()
            if start.has_model and start.saved.get("steps", self.work.steps) == self.work.steps:
                return self._finished(start)
            return self._train(start)
        finally:
            self.work.close()

    # -- before the rounds

    def _start(self) -> resume.Start:
        """Where the rounds stand, with changes since refused that nobody accepted."""
        folder = self.folder
        if folder is None or not folder.resume:
            return resume.Start(Path())
        if not folder.holds_run:
            raise CheckpointError(f"{folder.path} holds no run; start it anew")
        start = resume.Start(folder.path)
        if not (folder.path / STATE).is_file():
            return start  # it was stopped before its first round
        saved = checkpoint.read_values(folder.path / STATE)
        found = [c for r in round_folders(folder.path) for c in checkpoint.checkpoints(r)]
        start.checkpoint = found[-1] if found else None
        done = int(found[-1].name.rpartition("-")[2]) if found else 0
        start.saved = {**saved, "global_step": done}
        start.changes = resume.changes_since(start, folder.record)
        start.changes += resume.content_changes(
            saved["contents"], self._contents(folder), folder.path
        )
        if done:
            reasons = [self.work.by_steps] if self.work.by_steps else []
            change = resume.length_change(start, self._schedule(), self.work.steps, reasons)
            start.changes += [change] if change is not None else []
        start.refuse(folder.accept)
        return start

    def _schedule(self) -> dict[str, Any]:
        return {
            "lr_scheduler_type": self.loop.optimizer.lr_scheduler_type,
            "warmup_steps": self.settings.warmup_steps,
            "min_lr_ratio": self.settings.min_lr_ratio,
        }

    def _contents(self, folder: RunFolder) -> dict[str, Any]:
        prompts = _Prompts(self.work.prompts)
        return resume.contents({"model": self.spec}, self.spec.tokenizer, folder.plugins, prompts)

    def _open(self, folder: RunFolder, start: resume.Start, contents: dict[str, Any]) -> None:
        if folder.resume:
            folder.write(*resume.announced(start, self.work.steps))
            folder.before_open()
            resume.set_aside(start)
        folder.open()
        values = {"recipe": folder.record, "steps": self.work.steps, "contents": contents}
        write_text_whole(folder.path / STATE, json.dumps(values, indent=1))

    # -- the rounds

    def _train(self, start: resume.Start) -> Result:
        folder, work = self.folder, self.work
        contents = self._contents(folder) if folder is not None else {}
        rounds = Rounds(
            self.spec,
            self.settings,
            folder=folder,
            steps=work.steps,
            seed=self.seed,
            console=self.console,
            title=self.title,
            keep_start=work.restarts,
            first_metrics=work.account.metrics,
        )
        model = rounds.model
        if folder is not None:
            self._open(folder, start, contents)
        own = self._own_hooks(model)
        rounds.hooks += [*own, *self.hooks]
        with self._saved_as(rounds), closing([*own, *self.hooks]):
            work.run(rounds)
        if folder is not None:
            rounds.write_model()
            if not self.settings.save_final and not self.settings.save_every:
                checkpoint.prune_checkpoints(round_folders(folder.path)[-1], 0)
        evaluation = None
        if self.measured is not None:
            evaluation = self.measured.after_training(rounds.model, folder, self.console)
        return rounds.result(evaluation)

    def _own_hooks(self, model: Any) -> list[Hook]:
        every, hooks = self.settings.eval_every, []
        if self.measured is not None and every:
            hooks.append(self.measured.hook(model, self.work.steps, every))
        if self.folder is not None:
            hooks += build_trackers(list(self.settings.report_to), self.folder.path)
        return hooks

    @contextlib.contextmanager
    def _saved_as(self, rounds: Rounds) -> Any:
        """However the rounds end, their tables are written; a stop names the loop's folder."""
        if self.folder is None:
            yield
            return
        with resumed_as(self.folder.path):
            try:
                yield
            finally:
                rounds.write_lines()

    # -- after them

    def _finished(self, start: resume.Start) -> Result:
        assert self.folder is not None  # only a folder can hold a finished run
        weights = start.checkpoint or self.folder.path / "model"
        return finished(
            self.folder,
            start,
            self.work.steps,
            self.measured,
            lambda: self.spec.load(weights=weights),
        )


class _Prompts:
    """Prompts, as the digest of a source takes them."""

    def __init__(self, prompts: Sequence[Any]) -> None:
        self.prompts = list(prompts)
