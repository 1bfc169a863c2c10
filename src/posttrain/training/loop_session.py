"""One run of a loop: its rounds, their tables in one place, the model and its evaluation."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain.errors import CheckpointError, ConfigError
from posttrain.files import write_text_whole
from posttrain.models.loaded import LoadedModel
from posttrain.models.spec import ModelSpec
from posttrain.training import checkpoint, resume, start_weights
from posttrain.training.contents import content_changes, contents, contents_of
from posttrain.training.ending import closing, resumed_as
from posttrain.training.folder import RunFolder
from posttrain.training.hooks import Hook
from posttrain.training.length import Length
from posttrain.training.measurement import Evaluating
from posttrain.training.optimizers import refuse_average
from posttrain.training.plan import Loop, PreparedLoop
from posttrain.training.result import Result
from posttrain.training.rounds import Rounds, round_folders
from posttrain.training.run_session import RunSession
from posttrain.training.settings import TrainingSettings
from posttrain.training.tracking import build_trackers
from posttrain.world import World

_ALONE = World.alone()
STATE = "rounds.json"
"""What the rounds are made from: recipe, number of steps, digests of prompts and weights."""


class LoopSession(RunSession):
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
        world: World = _ALONE,
    ) -> None:
        refuse_average(settings)
        if world.size > 1:
            raise ConfigError(
                f"{loop.method}: its rounds run in one process, and there are {world.size}; start "
                "it without torchrun"
            )
        super().__init__(
            spec,
            settings,
            folder=folder,
            seed=seed,
            hooks=hooks,
            evaluation=evaluation,
            console=console,
            title=title or loop.method,
            world=world,
        )
        self.loop = loop
        self.work: PreparedLoop = work or loop.prepare(spec, seed, steps)

    # -- before the rounds

    @property
    def steps(self) -> int:
        """Of all rounds."""
        return self.work.steps

    def start(self) -> resume.Start:
        """Where the rounds stand, with changes of the recipe refused that nobody accepted."""
        folder = self.folder
        if folder is None or not folder.resume:
            return resume.Start(Path())
        if not folder.holds_run:
            raise CheckpointError(f"{folder.path} holds no run; start it anew")
        start = resume.Start(folder.path, caller=folder.caller)
        if not (folder.path / STATE).is_file():
            return start  # it was stopped before its first round
        saved = checkpoint.read_values(folder.path / STATE)
        places = [c for r in round_folders(folder.path) for c in checkpoint.checkpoints(r)]
        start.checkpoint = places[-1] if places else None
        done = int(places[-1].name.rpartition("-")[2]) if places else 0
        start.saved = {**saved, "global_step": done}
        start.changes = resume.changes_since(start, folder.record)
        start.refuse(folder.accept)
        return start

    def _begin(self, start: resume.Start) -> None:
        """Refuse other prompts, weights or lengths that nobody accepted. A model in memory takes
        the weights of the start.
        """
        if self.folder is None or not start.saved:
            return
        start_weights.bring(self.spec, start, seed=self.seed, scores=None)
        made_from = self._contents(self.folder, start)
        start.changes += content_changes(contents_of(start.saved), made_from, start.folder)
        change = self.length.change(start) if start.step else None
        start.changes += [change] if change is not None else []
        start.refuse(self.folder.accept)

    @property
    def length(self) -> Length:
        """How long all rounds are."""
        return Length.of(
            self.steps, self.loop.optimizer, self.settings, by_steps=self.work.by_steps
        )

    def _contents(self, folder: RunFolder, start: resume.Start) -> dict[str, Any]:
        begun = contents_of(start.saved)["weights"]
        prompts = _Prompts(self.work.prompts)
        models = {"model": self.spec}
        return contents(models, self.spec.tokenizer, folder.plugins, prompts, begun=begun)

    def _open(
        self, folder: RunFolder, start: resume.Start, model: Any, made_from: dict[str, Any]
    ) -> None:
        folder.open_at(start, self.steps)
        if not start.saved and isinstance(self.spec, LoadedModel):
            start_weights.keep(folder.path, model)
        self.spec.settle()
        values = {
            "recipe": folder.record,
            "steps": self.steps,
            "contents": made_from,
            "fresh_adapters": model.fresh_adapters,
        }
        write_text_whole(folder.path / STATE, json.dumps(values, indent=1))

    # -- the rounds

    def _train(self, start: resume.Start) -> Result:
        folder, work = self.folder, self.work
        made_from = self._contents(folder, start) if folder is not None else {}
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
            self._open(folder, start, model, made_from)
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
        with resumed_as(self.folder.go_on(self.steps)):
            try:
                yield
            finally:
                rounds.write_lines()

    # -- after them

    def _last_weights(self, start: resume.Start, model: Path) -> Path:
        return start.checkpoint or model

    def _load(self, weights: Path | None) -> Any:
        return self.spec.load(weights=weights)


class _Prompts:
    """Prompts, as the digest of a source takes them."""

    def __init__(self, prompts: Sequence[Any]) -> None:
        self.prompts = list(prompts)
