"""One training: from a plan and a model to a result."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain.errors import CheckpointError, ConfigError, RewardError
from posttrain.models.language_model import LanguageModel
from posttrain.models.spec import ModelSpec
from posttrain.terminal import write
from posttrain.training import checkpoint, resume
from posttrain.training.ending import Interrupted, closing, in_eval_mode, stop_on_signal
from posttrain.training.finished import finished
from posttrain.training.folder import RunFolder
from posttrain.training.hooks import (
    Hook,
    MetricsWriter,
    RolloutWriter,
    add_peak_memory,
    first_rollout,
)
from posttrain.training.lock import locked
from posttrain.training.loop import State, train
from posttrain.training.measurement import Evaluating, HeldOut, Measured
from posttrain.training.objective import Objective
from posttrain.training.optimizers import make_optimizer
from posttrain.training.plan import Learner, Plan, Work
from posttrain.training.progress import Progress
from posttrain.training.result import Record, Result, read_lines
from posttrain.training.roles import load_models, micro_batch_tokens
from posttrain.training.saving import Saver, check_finite, collapse, trained_norm
from posttrain.training.seeding import seeded
from posttrain.training.settings import TrainingSettings
from posttrain.training.tracking import build_trackers, check_trackers
from posttrain.training.training_state import TrainingState
from posttrain.training.trust_region import TrustRegion


class Session:
    """One training: from a plan and a model to a result.

    Args:
        folder: where it is written; None keeps everything in memory.
        work: the plan prepared for this model, where that was done before.
        after: the fit that is gone on from. schedule_steps: steps that the schedule of the learning
            rate is over; None = up to the last step of this training. fresh_optimizer: count on
            from `after` with an optimiser that begins anew.
    """

    def __init__(
        self,
        spec: ModelSpec,
        plan: Plan,
        settings: TrainingSettings,
        *,
        folder: RunFolder | None,
        steps: int | None,
        seed: int,
        hooks: Sequence[Hook] = (),
        evaluation: Evaluating | None = None,
        console: Console,
        title: str = "",
        work: Work | None = None,
        after: Result | None = None,
        schedule_steps: int | None = None,
        fresh_optimizer: bool = False,
    ) -> None:
        check_trackers(list(settings.report_to))
        self.spec, self.plan, self.settings, self.folder = spec, plan, settings, folder
        self.seed, self.hooks, self.console = seed, hooks, console
        self.title = title or plan.method
        self.work = work or plan.prepare(spec, seed, steps)
        self.measured = Measured(evaluation) if evaluation is not None else None
        self.after, self.schedule_steps = after, schedule_steps
        self.fresh_optimizer = fresh_optimizer
        self.stopped = False  # by the user, at the last step at the latest
        self._check_continuation()

    def _check_continuation(self) -> None:
        """Refuse a state that is not there, and a schedule that is over too early."""
        if self.after is not None and (self.folder is None or not self.folder.resume):
            self.after.check_state()
        if self.schedule_steps is not None and self.schedule_steps < self.steps:
            raise ConfigError(
                f"schedule_steps: {self.schedule_steps} is below {self.steps}, the last step of "
                "this training; raise it or leave it out"
            )

    @property
    def steps(self) -> int:
        """The number of the last step; those of an earlier fit that is gone on from count."""
        return (self.after.step if self.after is not None else 0) + self.work.steps

    def run(self) -> Result:
        """Train, save and measure."""
        if self.folder is None:
            return self.run_in_folder()
        self.folder.refuse_existing()
        with locked(self.folder.path):
            self.folder.refuse_existing()
            return self.run_in_folder()

    def run_in_folder(self) -> Result:
        """As `run`, for a caller that holds the folder's lock."""
        account = self.work.account
        for name, text in account.losses.items():
            self._print(f"{name}: {text}", style="yellow")
        for note in self.work.notes:
            self._print(note, style="yellow")
        try:
            self._with_start_model()
            start = self._start()
            if start.has_model and start.saved.get("steps", self.steps) == self.steps:
                return self._finished(start)
            return self._train(start)
        finally:
            self.work.close()

    @property
    def objective(self) -> Objective:
        """What is minimised."""
        return self.work.objective or self.plan.objective

    # -- before the training

    def _start(self) -> resume.Start:
        return self.folder.start() if self.folder is not None else resume.Start(Path())

    def _with_start_model(self) -> None:
        """What the model of the start has to say of the data: a filter, cached log-probs."""
        work, reference = self.work, self.plan.reference
        if work.filtered is None and not reference.cached:
            return
        model = self.spec.load()
        limit = micro_batch_tokens(model, self.settings)
        if work.filtered is not None:
            self.work = work = work.filtered(model, limit, self.console)
        if reference.cached:
            reference.cache(model, work.compared, max_tokens=limit, console=self.console)

    # -- the training

    def _train(self, start: resume.Start) -> Result:
        goes_on = self.after is not None
        model = load_models(self.spec, self.plan, self.objective, start.checkpoint, goes_on=goes_on)
        with seeded(self.seed), in_eval_mode(model):
            span = self.schedule_steps or self.steps
            optimizer = make_optimizer(model, self.plan, self.objective, self.settings, span)
            limit = micro_batch_tokens(model, self.settings)
            source = self.work.source(Learner(model, optimizer, limit))
            facts = self._facts(start, source, optimizer)
            state = self._restore(start, model, source, optimizer)
            first = state.step
            if self.folder is not None:
                self._open(self.folder, start)
            norm = float(start.saved.get("initial_norm", 0.0)) or trained_norm(model)
            saver = self._saver(model, source, optimizer, state, {**facts, "initial_norm": norm})
            record = Record(source if self.work.samples else None)
            hooks, progress = self._hooks(model, source, optimizer, state, record)
            hooks += [saver] if saver is not None else []
            model.train()
            stopping = (
                stop_on_signal(state, self.console, self.folder.path)
                if self.folder is not None
                else contextlib.nullcontext()
            )
            with progress, closing(hooks), stopping:
                try:
                    train(
                        model,
                        source,
                        self.objective,
                        optimizer,
                        hooks,
                        state,
                        steps=self.steps,
                        max_tokens=limit,
                    )
                except RewardError:
                    # Rewards are called before anything of their step is updated.
                    if saver is not None and state.step > first:
                        saver.save(state.step)
                    raise
            model.eval()
            self.stopped = state.stop
            held = None
            if self.folder is None or not self.settings.save_final:
                held = TrainingState.of(model, optimizer, state)
        if self.folder is not None and saver is not None:
            self._save(self.folder, model, state, start, saver, norm)
        model.neftune_noise_alpha = 0.0
        # A later run starts from base and adapters together, which is then its reference.
        model.fresh_adapters = False
        return self._result(model, record, held)

    def _facts(self, start: resume.Start, source: Any, optimizer: Any) -> dict[str, Any]:
        """What every checkpoint says of the run; changes since the one at hand are refused."""
        if self.folder is None:
            return {}
        models = {"model": self.spec}
        if self.plan.teacher is not None:
            models["teacher"] = self.plan.teacher
        if self.plan.critic is not None and self.plan.critic.model is not None:
            models["critic"] = self.plan.critic.model
        contents = resume.contents(models, self.spec.tokenizer, self.folder.plugins, source)
        if start.checkpoint is not None:
            start.changes += resume.content_changes(
                start.saved["contents"], contents, start.checkpoint
            )
            reasons = ["adalora prunes by the number of steps"]
            reasons = reasons if getattr(optimizer, "updates", None) is not None else []
            reasons += [self.work.by_steps] if self.work.by_steps else []
            schedule = {
                "lr_scheduler_type": self.plan.optimizer.lr_scheduler_type,
                "warmup_steps": self.settings.warmup_steps,
                "min_lr_ratio": self.settings.min_lr_ratio,
            }
            change = resume.length_change(
                start, schedule, self.steps, reasons, schedule_steps=self.schedule_steps
            )
            start.changes += [change] if change is not None else []
            start.refuse(self.folder.accept)
        span = self.schedule_steps or self.steps
        return {"recipe": self.folder.record, "contents": contents, "schedule_steps": span}

    def _restore(self, start: resume.Start, model: Any, source: Any, optimizer: Any) -> State:
        """Optimiser, source and generators as the checkpoint has them; the state to go on from."""
        if start.checkpoint is None:
            if self.after is None:
                return State()
            return self.after.take_state().restore(model, optimizer, fresh=self.fresh_optimizer)
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

    def _open(self, folder: RunFolder, start: resume.Start) -> None:
        if folder.resume:
            folder.write(*resume.announced(start, self.steps))
            folder.before_open()
            resume.set_aside(start)
        folder.open()

    def _saver(
        self, model: Any, source: Any, optimizer: Any, state: State, facts: Mapping[str, Any]
    ) -> Saver | None:
        if self.folder is None:
            return None
        s = self.settings
        return Saver(
            self.folder.path,
            model,
            source,
            optimizer,
            state,
            steps=self.steps,
            every=s.save_every,
            seconds=s.save_seconds,
            limit=s.save_total_limit,
            final=s.save_final,
            facts=dict(facts),
        )

    def _hooks(
        self, model: Any, source: Any, optimizer: Any, state: State, record: Record
    ) -> tuple[list[Any], Progress]:
        """What is called after each step, but for the saver; and the progress display."""
        work, steps, every = self.work, self.steps, self.settings.eval_every
        first = dict(work.account.metrics)
        hooks: list[Any] = [optimizer.report] if isinstance(optimizer, TrustRegion) else []
        hooks += self.plan.reference.hooks(model)
        if work.samples and self.folder is not None:
            path = self.folder.path / "rollouts.jsonl"
            hooks.append(RolloutWriter(path, lambda: source.groups, resume_step=state.step))
        if work.measure is not None:
            limit = micro_batch_tokens(model, self.settings)
            hook = HeldOut(partial(work.measure, model, source, limit), steps, every)
            if state.step == 0:
                hook.measure_into(first)
            if "eval_loss" in first:
                self._print(f"eval_loss before training: {first['eval_loss']:.4f}")
            hooks.append(hook)
        if self.measured is not None and every:
            hooks.append(self.measured.hook(model, steps, every))
        hooks += [add_peak_memory, *self.hooks]
        if self.folder is not None:
            hooks += build_trackers(list(self.settings.report_to), self.folder.path)
            writer = MetricsWriter(self.folder.path / "metrics.jsonl", resume_step=state.step)
            hooks.append(writer)
        else:
            writer = None
        hooks.append(record)
        if first and state.step == 0:
            record.metrics.append({"step": 0, **first})
            if writer is not None:
                writer(0, first)
        show = partial(first_rollout, source) if work.samples else None
        progress = Progress(
            steps, title=self.title, console=self.console, start=state.step, sampled=show
        )
        return [*hooks, progress], progress

    # -- after the training

    def _save(
        self,
        folder: RunFolder,
        model: Any,
        state: State,
        start: resume.Start,
        saver: Saver,
        norm: float,
    ) -> None:
        """Write the model, unless it is not fit to be used.

        Raises:
            Interrupted: the run was stopped before its last step.
        """
        steps = self.steps
        if state.stop and state.step < steps:
            raise Interrupted(
                f"stopped after step {state.step} of {steps}; go on with: posttrain resume "
                f"{folder.path}"
            )
        if start.step == steps and start.saved["steps"] != steps and self.settings.save_final:
            saver.save(steps)  # the checkpoint was one of a longer run
        check_finite(model, state)
        warning = collapse(norm, trained_norm(model))
        if warning is not None:
            self._print(warning, style="yellow")
        with checkpoint.written_whole(folder.path / "model") as place:
            model.save(place)
        saver.finish()

    def _result(self, model: Any, record: Record, state: TrainingState | None) -> Result:
        evaluation = None
        if self.measured is not None:
            evaluation = self.measured.after_training(model, self.folder, self.console)
        metrics, rollouts, path = record.metrics, record.rollouts, None
        if self.folder is not None:
            path = self.folder.path
            metrics = read_lines(path / "metrics.jsonl")
            rollouts = read_lines(path / "rollouts.jsonl")
        return Result(
            model,
            metrics=metrics,
            rollouts=rollouts,
            folder=path,
            evaluation=evaluation,
            state=state,
        )

    def _finished(self, start: resume.Start) -> Result:
        """The result of a run whose training is done."""
        assert self.folder is not None  # only a folder can hold a finished run
        weights = start.checkpoint if start.step == self.steps else self.folder.path / "model"

        def load() -> Any:
            return load_models(self.spec, self.plan, self.objective, weights)

        return finished(self.folder, start, self.steps, self.measured, load)

    def _print(self, text: str, style: str = "") -> None:
        write(self.console, text, style=style)
