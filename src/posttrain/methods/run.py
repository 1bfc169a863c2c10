"""A run: its folder, its hooks, how it starts, is interrupted, goes on and ends."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console

from posttrain import registry
from posttrain.config import Recipe
from posttrain.data.stream import Source
from posttrain.errors import CheckpointError, ConfigError, RewardError
from posttrain.evaluation.run import Evaluation
from posttrain.keys import Watch, refuse_unread_fields
from posttrain.methods import resume
from posttrain.methods.job import Job as Job
from posttrain.methods.job import TrainingJob as TrainingJob
from posttrain.methods.models import EMBEDDED as EMBEDDED
from posttrain.methods.models import RunModels
from posttrain.models.adapters import updates_of
from posttrain.models.forest_model import ForestModel
from posttrain.models.language_model import LanguageModel
from posttrain.recipe import recipe_as_dict, stage_recipes
from posttrain.terminal import styled, visible, write
from posttrain.training import checkpoint
from posttrain.training.changes import Change, check_accepted, recipe_changes
from posttrain.training.ending import Interrupted as Interrupted
from posttrain.training.ending import closing, stop_on_signal
from posttrain.training.hooks import Hook, MetricsWriter
from posttrain.training.lock import locked
from posttrain.training.loop import State, train
from posttrain.training.objective import Objective
from posttrain.training.optim import Optimizer
from posttrain.training.progress import Progress
from posttrain.training.saving import Saver, check_finite, collapse, trained_norm
from posttrain.training.tracking import build_trackers, check_trackers

SAMPLES = "samples.jsonl"
"""What method sample leaves behind."""
SUMMARY = "summary.json"
"""What a pipeline leaves behind."""


class Finished(Exception):
    """There is nothing left to do: what the recipe asks for is done."""


class Run(RunModels):
    """One execution of a recipe.

    Args:
        recipe: what to run. command: the command line, for the report. resume: go on from the last
        checkpoint.
        accept: names of changes since the checkpoint that a resume may make (see
        `training.changes`).
        console: where to print.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        command: str = "",
        resume: bool = False,
        accept: Collection[str] = (),
        console: Console | None = None,
    ) -> None:
        check_accepted(accept)
        super().__init__(recipe, console or Console())
        self.command = command
        self.resume = resume
        self.accept = accept
        self.folder = Path(recipe.output or f"runs/{recipe.method}")
        self.first_metrics: dict[str, float] = {}
        self.lost: dict[
            str, str
        ] = {}  # what of the data is lost, in words, by what it is lost from
        self.resume_step = 0
        self.optimizer: Optimizer | None = None  # of the training that is going on
        self.before_open: Callable[[], None] = lambda: (
            None
        )  # a pipeline opens its own folder with its first stage's
        self.measured: tuple[Evaluation, float] | None = (
            None  # after the last step, with its seconds
        )
        self.critic_ahead: bool | None = (
            None  # whether an earlier stage, which has not run, will leave a critic
        )

    def job(self) -> Job:
        """Prepare: all checks that need no weights are made here."""
        check_trackers(self.recipe.report_to)
        entry = registry.methods.entry(self.recipe.method)
        known = {f.name for f in dataclasses.fields(Recipe)}
        settings = {
            k: getattr(self.recipe, k) if k in known else self.recipe.settings[k]
            for k in entry.settings
        }
        watch = Watch()
        job: Job = registry.methods.get(self.recipe.method)(
            self, **{k: watch.section(k, v) for k, v in settings.items()}
        )
        refuse_unread_fields(self.recipe.method, watch.unread())
        if isinstance(job, TrainingJob) and self.recipe.evaluation is not None:
            # What will be measured in the end is made now: its mistakes have to come to light
            # before the training.
            measured: Job = registry.methods.get("evaluate")(
                self, evaluation=self.recipe.evaluation
            )
            every = (
                f", every {self.recipe.eval_every} steps and in the end"
                if self.recipe.eval_every
                else ""
            )
            job.facts.append(("evaluation", measured.facts[0][1] + every))
        job.facts += self.lost.items()
        return job

    def execute(self) -> Path:
        """Prepare and run; returns the run's folder.

        Raises:
            ConfigError: the folder already holds a run, or another process works in it.
        """
        self._refuse_existing()
        with locked(self.folder):
            self._refuse_existing()
            job = self.job()
            for name, text in self.lost.items():
                write(self.console, f"{name}: {text}", style="yellow")
            try:
                if self.resume and not isinstance(job, TrainingJob) and not self.recipe.stages:
                    self._refuse_other_recipe()
                    if self.finished:
                        raise Finished(f"{self.folder} is finished")
                job.execute()
            except Finished as reason:
                write(self.console, reason)
        return self.folder

    def check(self) -> None:
        """Prepare only, and show what was found."""
        job = self.job()
        width = max(len(name) for name, _ in job.facts)
        for name, value in job.facts:
            write(self.console, "  ", styled(f"{name:<{width}}", "bold"), f"  {value}")
        write(self.console, "\nevery check that needs no weights has passed", style="green")

    def preview(self, num: int) -> None:
        """Show what is trained on."""
        job = self.job()
        if job.preview is None:
            raise ConfigError(
                f"method {self.recipe.method!r} trains on no fixed rows, so there is nothing to "
                "preview"
            )
        job.preview(num)

    @property
    def trains(self) -> bool:
        """Whether the run leaves a trained model."""
        return registry.methods.entry(self.recipe.method).returns == "TrainingJob"

    @property
    def finished(self) -> bool:
        """Whether this run has ended: all that it leaves is there. Training on moves that aside
        first.
        """
        if self.recipe.stages:
            stages = [Run(stage, console=self.console) for _, stage in stage_recipes(self.recipe)]
            return (self.folder / SUMMARY).exists() and all(stage.finished for stage in stages)
        if (self.folder / SAMPLES).exists():
            return True
        files = ["model"] if self.trains or self.recipe.evaluation is None else []
        files += ["evaluation.json"] if self.recipe.evaluation is not None else []
        return all((self.folder / name).exists() for name in files)

    def changes(self) -> list[Change]:
        """The keys that differ from the recipe that the folder holds."""
        before = resume.recorded_recipe(self.folder)
        return [
            c
            for c in recipe_changes(before, resume.plain_recipe(self.recipe))
            if c.name != "output"
        ]

    # -- the life of a run

    def open(self) -> None:
        """Make the run's folder with the resolved recipe in it."""
        self._refuse_existing()
        self.before_open()
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoint.remove_partial(self.folder)
        plain = recipe_as_dict(self.recipe)
        plain["plugins"] = [str((self.recipe.base / p).resolve()) for p in self.recipe.plugins]
        plain["output"] = str(self.folder)
        text = f"# {visible(self.command)}\n{yaml.safe_dump(plain, sort_keys=False)}"
        checkpoint.write_text_whole(self.folder / "recipe.yaml", text)

    def _refuse_existing(self) -> None:
        if not self.resume and (self.folder / "recipe.yaml").exists():
            raise ConfigError(
                f"output: {self.folder} already holds a run. Go on with it by `posttrain resume "
                f"{self.folder}`, "
                "choose another output=..., or remove the folder"
            )

    def _refuse_other_recipe(self) -> None:
        """What was made part by part, or measured, goes on with the recipe that it was begun
        with.
        """
        # Content is not fingerprinted here, so another path may mean other rows or another model.
        refused = [
            c for c in self.changes() if c.rule not in ("free", "rounding") and c.name != "plugins"
        ]
        measured = [c for c in self.changes() if c.name.startswith("evaluation")]
        if refused or measured:
            lines = "".join(f"\n  {c.text}" for c in refused or measured)
            raise CheckpointError(
                f"{self.folder} was begun with another recipe, and what is there would not fit "
                f"the rest:{lines}\n"
                "Start a new run with another output=..."
            )

    def train(
        self,
        make_source: Callable[[Any], Source],
        objective: Objective,
        *,
        steps: int,
        load: Callable[[Path | None], Any] | None = None,
        make_hooks: Callable[[Any, Source], Sequence[Hook]] = lambda model, source: (),
        show: Callable[[Any], Any] | None = None,
        make_optimizer: Callable[[Any, Optimizer], Any] = lambda model, usual: usual,
        by_steps: str = "",
    ) -> Any:
        """Load, train from the start or from the last checkpoint, and save `model/`.

        Args:
            load: gives the model, as the checkpoint in a folder holds it or (None) as the run
            starts; left out, the language
                model of the recipe with a reference if the objective needs one.
            make_hooks: extra hooks, called first so that what they add to the metrics is logged.
            show: source -> a sampled completion for the progress display.
            make_optimizer: (model, AdamW) -> what updates the weights.
            by_steps: why the method's steps depend on how many there are, if they do.
        Raises:
            Interrupted: the user stopped the run; a checkpoint holds its state.
            CheckpointError: the run cannot be resumed as asked; nothing was written.
        """
        load = load or (
            lambda last: self.load_model(reference=objective.needs_reference, weights=last)
        )
        start = self._start()
        if start.has_model and start.saved.get("steps", steps) == steps:
            return self._trained_model(start, steps, load)
        model = load(start.checkpoint)
        _seed_everything(self.recipe.seed)
        source = make_source(model)
        usual = self._optimizer(model, steps)
        optimizer = self.optimizer = make_optimizer(model, usual)
        made_of = resume.contents(self, source)
        self._accept(
            start,
            steps,
            made_of,
            ["adalora prunes by the number of steps"] * (usual.updates is not None),
            by_steps,
        )
        state = self._restore(start, model, source, optimizer)
        if self.resume:
            self._say(*resume.announced(start, steps))
            self.before_open()
            resume.set_aside(start)
        self.open()
        norm = float(start.saved.get("initial_norm", 0.0)) or trained_norm(model)
        facts = {
            "recipe": resume.plain_recipe(self.recipe),
            "contents": made_of,
            "initial_norm": norm,
        }
        saver = Saver(
            self.folder,
            model,
            source,
            optimizer,
            state,
            steps=steps,
            every=self.recipe.save_every,
            seconds=self.recipe.save_seconds,
            limit=self.recipe.save_total_limit,
            final=self.recipe.save_final,
            facts=facts,
        )
        hooks, progress = self._hooks(
            make_hooks(model, source), state, steps, partial(show, source) if show else None
        )
        hooks.append(saver)
        model.train()
        limit = self.micro_batch_tokens(model)
        with progress, closing(hooks), stop_on_signal(state, self.console, self.folder):
            try:
                train(
                    model, source, objective, optimizer, hooks, state, steps=steps, max_tokens=limit
                )
            except RewardError:  # rewards are called before anything of their step is updated
                if state.step > start.step:
                    saver.save(state.step)
                raise
        if state.stop and state.step < steps:
            raise Interrupted(
                f"stopped after step {state.step} of {steps}; go on with: posttrain resume "
                f"{self.folder}"
            )
        if start.step == steps and start.saved["steps"] != steps and self.recipe.save_final:
            saver.save(steps)  # the checkpoint was one of a longer run
        model.eval()
        self._save_model(model, state, norm)
        saver.finish()
        return model

    def _start(self) -> resume.Start:
        """Where to start from, with changes of the recipe that need no weights refused already."""
        if not self.resume:
            return resume.Start(self.folder)
        if not (self.folder / "recipe.yaml").exists():
            raise CheckpointError(f"{self.folder} holds no run; start it anew")
        start = resume.find_start(self.folder)
        if start.checkpoint is not None or start.has_model:
            start.changes = resume.changes_since(start, self.recipe)
            start.refuse(self.accept)
        return start

    def _trained_model(
        self, start: resume.Start, steps: int, load: Callable[[Path | None], Any]
    ) -> Any:
        """The model of a run whose training is done, for what is left to do: the evaluation.

        Raises:
            Finished: nothing is left. CheckpointError: changes that would need training.
        """
        late = [c for c in start.changes if c.rule not in ("free", "rounding", "content")]
        longer = [c for c in late if c.rule == "length"]
        if late and not (start.checkpoint is not None and late == longer):
            where = (
                "no checkpoint is left to train on from"
                if start.checkpoint is None
                else f"all {steps} steps are done"
            )
            lines = "".join(
                f"\n  {text}"
                for text in [*(c.text for c in late), *(reason for _, reason in start.damaged)]
            )
            raise CheckpointError(
                f"{self.folder} is trained to its end and {where}; these changes would do "
                f"nothing:{lines}\n"
                f"Raise max_steps, or start a new run from model.path={self.folder / 'model'}"
            )
        measured = self.folder / "evaluation.json"
        # The folder's recipe is the one that the evaluation there was made by; the checkpoint's may
        # be older.
        again = any(c.name.startswith("evaluation") for c in self.changes())
        if self.recipe.evaluation is None or (measured.exists() and not again):
            raise Finished(f"{self.folder} is finished")
        self._say(f"{self.folder} is trained; what is left is its evaluation")
        for change in start.changes:
            self._say(f"  changed: {change.text}")
        model = load(start.checkpoint if start.step == steps else self.folder / "model")
        self.before_open()
        if measured.exists():
            self._say(f"  kept: {measured.name} as {resume.set_evaluation_aside(start).name}")
        self.open()
        model.eval()
        return model

    def _accept(
        self,
        start: resume.Start,
        steps: int,
        made_of: dict[str, Any],
        adapters: list[str],
        by_steps: str,
    ) -> None:
        """Compare what a checkpoint was made from with what is there now, before anything is
        written.
        """
        if start.checkpoint is None:
            return
        start.changes += resume.content_changes(start.saved["contents"], made_of, start.checkpoint)
        reasons = [*adapters, *([by_steps] if by_steps else [])]
        length = resume.length_change(start, self.recipe, steps, reasons, start.changes)
        start.changes += [length] if length is not None else []
        start.refuse(self.accept)

    def _restore(self, start: resume.Start, model: Any, source: Source, optimizer: Any) -> State:
        """Optimiser, source and generators as the checkpoint has them; the state to go on from."""
        self.resume_step = start.step
        if start.checkpoint is None:
            return State()
        checkpoint.load_checkpoint(start.checkpoint, optimizer)
        try:
            source.load_state(start.saved["source"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{start.checkpoint} does not fit this recipe: its source holds other state "
                f"({type(error).__name__}: {error})"
            ) from error
        if isinstance(model, LanguageModel):
            model.weights_version = start.saved["weights_version"]
        return State(start.step, start.saved["num_tokens"], str(start.checkpoint))

    def _hooks(
        self, extra: Sequence[Hook], state: State, steps: int, sampled: Callable[[], Any] | None
    ) -> tuple[list[Any], Progress]:
        """What is called after each step, but for the saver; and the progress display, which is
        one of them.
        """
        hooks: list[Any] = [*extra, *build_trackers(self.recipe.report_to, self.folder)]
        writer = MetricsWriter(self.folder / "metrics.jsonl", resume_step=state.step)
        if self.first_metrics and state.step == 0:
            writer(0, self.first_metrics)
        title = self.recipe.title or self.recipe.method
        progress = Progress(
            steps, title=title, console=self.console, start=state.step, sampled=sampled
        )
        return [*hooks, writer, progress], progress

    def _save_model(self, model: Any, state: State, norm: float) -> None:
        """Write `model/`, unless it is not fit to be used."""
        check_finite(model, state)
        warning = collapse(norm, trained_norm(model))
        if warning is not None:
            write(self.console, warning, style="yellow")
        with checkpoint.written_whole(self.folder / "model") as place:
            model.save(place)

    def _say(self, *lines: str) -> None:
        for line in lines:
            write(self.console, line)

    def _optimizer(self, model: ForestModel, steps: int) -> Optimizer:
        r = self.recipe
        return Optimizer(
            model.trainable_parameters(),
            steps=steps,
            learning_rate=r.learning_rate,
            weight_decay=r.weight_decay,
            betas=(r.adam_beta1, r.adam_beta2),
            epsilon=r.adam_epsilon,
            schedule=r.lr_scheduler_type,
            warmup_steps=r.warmup_steps,
            min_lr_ratio=r.min_lr_ratio,
            max_grad_norm=r.max_grad_norm,
            rate_factors=model.rate_factors,
            updates=updates_of(model.hf, steps),
        )

    def steps_for(self, steps_per_epoch: int) -> int:
        """max_steps, or as many as num_train_epochs takes."""
        return self.recipe.max_steps or max(
            1, math.ceil(self.recipe.num_train_epochs * steps_per_epoch)
        )


def _seed_everything(seed: int) -> None:
    """Seed the global generators, which dropout and users' own functions draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
