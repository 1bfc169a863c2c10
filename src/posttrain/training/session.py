"""One training: from a plan and a model to a result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from posttrain.errors import CheckpointError, RewardError
from posttrain.models.language_model import LanguageModel
from posttrain.models.loaded import LoadedModel
from posttrain.models.spec import ModelSpec
from posttrain.terminal import write
from posttrain.training import checkpoint, resume, start_weights
from posttrain.training.contents import content_changes, contents, contents_of
from posttrain.training.ending import Interrupted, closing, stop_on_signal
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
from posttrain.training.trust_region import TrustRegion


class Session:
    """One training: from a plan and a model to a result.

    Args:
        folder: where it is written; None keeps everything in memory.
        work: the plan prepared for this model, where that was done before.
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
    ) -> None:
        check_trackers(list(settings.report_to))
        self.spec, self.plan, self.settings, self.folder = spec, plan, settings, folder
        self.seed, self.hooks, self.console = seed, hooks, console
        self.title = title or plan.method
        self.work = work or plan.prepare(spec, seed, steps)
        self._filtered = False
        self.measured = Measured(evaluation) if evaluation is not None else None

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
            start = self._start()
            start_weights.bring(self.spec, start, seed=self.seed, scores=self.plan.scores)
            self._with_start_model()
            if start.has_model and start.saved.get("steps", self.work.steps) == self.work.steps:
                return self._finished(start)
            return self._train(start)
        except BaseException:
            self.spec.give_back()  # where a resume was refused, and has loaded weights
            raise
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
        self._filtered = work.filtered is not None
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
        model = load_models(self.spec, self.plan, self.objective, start.checkpoint)
        with seeded(self.seed), _in_eval_mode(model):
            optimizer = make_optimizer(
                model, self.plan, self.objective, self.settings, self.work.steps
            )
            limit = micro_batch_tokens(model, self.settings)

            asked: list[bool] = []

            def weights_at_start() -> dict[str, torch.Tensor]:
                asked.append(True)
                return self.spec.start_weights(model if start.checkpoint is None else None)

            source = self.work.source(Learner(model, optimizer, limit, weights_at_start))
            facts = self._facts(start, source, optimizer)
            state = self._restore(start, model, source, optimizer)
            if self.folder is not None:
                self._open(self.folder, start)
                if start.checkpoint is None and self._needs_start(model, bool(asked)):
                    start_weights.keep(self.folder.path, model)
            self.spec.settle()
            norm = float(start.saved.get("initial_norm", 0.0)) or trained_norm(model)
            facts["initial_norm"] = norm
            saver = self._saver(model, source, optimizer, state, facts=facts)
            record = Record(source if self.work.samples else None)
            hooks, progress = self._hooks(model, source, optimizer, state, record)
            hooks += [saver] if saver is not None else []
            model.train()
            stopping = (
                stop_on_signal(state, self.console, self._go_on(self.folder))
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
                        steps=self.work.steps,
                        max_tokens=limit,
                    )
                except RewardError:
                    # Rewards are called before anything of their step is updated.
                    if saver is not None and state.step > start.step:
                        saver.save(state.step)
                    raise
            model.eval()
        if self.folder is not None and saver is not None:
            self._save(self.folder, model, state, start, saver, norm)
        model.neftune_noise_alpha = 0.0
        return self._result(model, record)

    def _facts(self, start: resume.Start, source: Any, optimizer: Any) -> dict[str, Any]:
        """What every checkpoint says of the run; changes since the one at hand are refused."""
        if self.folder is None:
            return {}
        models = {"model": self.spec}
        if self.plan.teacher is not None:
            models["teacher"] = self.plan.teacher
        if self.plan.critic is not None and self.plan.critic.model is not None:
            models["critic"] = self.plan.critic.model
        saved = contents_of(start.saved)
        made_from = contents(
            models,
            self.spec.tokenizer,
            self.folder.plugins,
            source,
            begun=saved["weights"],
            scores=self.plan.scores,
        )
        if start.checkpoint is not None:
            kept = (self.folder.path / start_weights.START).exists()
            start.changes += content_changes(
                saved, made_from, start.checkpoint, free=() if kept else ("model",)
            )
            reasons = ["adalora prunes by the number of steps"]
            reasons = reasons if getattr(optimizer, "updates", None) is not None else []
            reasons += [self.work.by_steps] if self.work.by_steps else []
            change = resume.length_change(start, self.schedule, self.work.steps, reasons)
            start.changes += [change] if change is not None else []
            start.refuse(self.folder.accept)
        return {"recipe": self.folder.record, "contents": made_from}

    def _needs_start(self, model: Any, asked: bool) -> bool:
        """Whether a resume of this run could not do without the weights of its start."""
        return isinstance(self.spec, LoadedModel) and start_weights.are_needed(
            self.plan, self.objective, model, filtered=self._filtered, asked=asked
        )

    def _restore(self, start: resume.Start, model: Any, source: Any, optimizer: Any) -> State:
        """Optimiser, source and generators as the checkpoint has them; the state to go on from."""
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

    def _open(self, folder: RunFolder, start: resume.Start) -> None:
        if folder.resume:
            folder.write(*resume.announced(start, self.work.steps))
            folder.before_open()
            resume.set_aside(start)
        folder.open()

    def _saver(self, *parts: Any, facts: Mapping[str, Any]) -> Saver | None:
        """What saves the model, source, optimiser and state of a run in a folder."""
        if self.folder is None:
            return None
        steps = self.work.steps
        return Saver.of(self.settings, self.folder.path, *parts, steps=steps, facts=dict(facts))

    def _hooks(
        self, model: Any, source: Any, optimizer: Any, state: State, record: Record
    ) -> tuple[list[Any], Progress]:
        """What is called after each step, but for the saver; and the progress display."""
        work, steps, every = self.work, self.work.steps, self.settings.eval_every
        first = dict(work.account.metrics)
        hooks: list[Any] = [optimizer.report] if isinstance(optimizer, TrustRegion) else []
        hooks += self.plan.reference.hooks(model, steps)
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
        steps = self.work.steps
        if state.stop and state.step < steps:
            raise Interrupted(
                f"stopped after step {state.step} of {steps}; go on with: {self._go_on(folder)}"
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

    def _result(self, model: Any, record: Record) -> Result:
        evaluation = None
        if self.measured is not None:
            evaluation = self.measured.after_training(model, self.folder, self.console)
        if self.folder is None:
            return Result(
                model, metrics=record.metrics, rollouts=record.rollouts, evaluation=evaluation
            )
        path = self.folder.path
        return Result(
            model,
            metrics=read_lines(path / "metrics.jsonl"),
            rollouts=read_lines(path / "rollouts.jsonl"),
            folder=path,
            evaluation=evaluation,
        )

    def _finished(self, start: resume.Start) -> Result:
        """The result of a run whose training is done; its evaluation is made where it is missing.

        Raises:
            CheckpointError: changes that would need training.
        """
        folder, steps = self.folder, self.work.steps
        assert folder is not None  # only a folder can hold a finished run
        resume.refuse_late_changes(start, steps)
        path = folder.path / "evaluation.json"
        # The folder's recipe is the one that the evaluation there was made by; the checkpoint's
        # may be older.
        again = any(c.name.startswith("evaluation") for c in folder.changes())
        weights = start.checkpoint if start.step == steps else folder.path / "model"
        if self.measured is None or (path.exists() and not again):
            self._print(f"{folder.path} is finished. {self.longer(start)}")
            in_memory = isinstance(self.spec, LoadedModel)
            model = (
                load_models(self.spec, self.plan, self.objective, weights) if in_memory else None
            )
        else:
            folder.write(f"{folder.path} is trained; what is left is its evaluation")
            folder.write(*(f"  changed: {change.text}" for change in start.changes))
            model = load_models(self.spec, self.plan, self.objective, weights)
            folder.before_open()
            if path.exists():
                folder.write(f"  kept: {path.name} as {resume.set_evaluation_aside(start).name}")
            folder.open()
            model.eval()
            self.measured.after_training(model, folder, self.console)
        self.spec.settle()
        return Result(
            model,
            metrics=read_lines(folder.path / "metrics.jsonl"),
            rollouts=read_lines(folder.path / "rollouts.jsonl"),
            folder=folder.path,
            load=lambda: load_models(self.spec, self.plan, self.objective, weights),
        )

    @property
    def schedule(self) -> dict[str, Any]:
        """What the learning rate of a step follows from, beside the number of steps."""
        return {
            "lr_scheduler_type": self.plan.optimizer.lr_scheduler_type,
            "warmup_steps": self.settings.warmup_steps,
            "min_lr_ratio": self.settings.min_lr_ratio,
        }

    def longer(self, start: resume.Start) -> str:
        """How a finished run is trained on."""
        if start.checkpoint is None:
            return "It kept no checkpoint to train on from (save_final)"
        return resume.longer(start, self.schedule, self.work.by_steps)

    def _go_on(self, folder: RunFolder) -> str:
        """The call that goes on with the run. A recipe knows its length."""
        steps = str(self.work.steps) if folder.caller.python else ""
        return folder.caller.resume(folder.path, steps=steps)

    def _print(self, text: str, style: str = "") -> None:
        write(self.console, text, style=style)


@contextlib.contextmanager
def _in_eval_mode(model: Any) -> Iterator[None]:
    """Leave the model in evaluation mode, whatever happens."""
    try:
        yield
    finally:
        model.eval()
