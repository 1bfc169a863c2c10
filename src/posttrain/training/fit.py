"""`fit` trains a model as a plan says. It is the only thing that trains."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console

from posttrain.config import Component, ModelConfig
from posttrain.errors import CheckpointError, ConfigError, RewardError
from posttrain.models.adapters import updates_of
from posttrain.models.foreign import ForeignTeacher
from posttrain.models.forest_model import ForestModel
from posttrain.models.language_model import LanguageModel
from posttrain.models.spec import ModelSpec, model_spec
from posttrain.training import checkpoint, resume
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
from posttrain.training.measurement import HeldOut, Measured
from posttrain.training.objective import Objective
from posttrain.training.optim import Optimizer
from posttrain.training.penalties import Penalties
from posttrain.training.plan import Learner, Plan, Work
from posttrain.training.progress import Progress
from posttrain.training.record import record_of
from posttrain.training.result import Record, Result, read_lines
from posttrain.training.saving import Saver, check_finite, collapse, trained_norm
from posttrain.training.settings import TrainingSettings
from posttrain.training.tracking import build_trackers, check_trackers
from posttrain.training.trust_region import TrustRegion


class Evaluating(Protocol):
    """What measures a language model on problems that were prepared for it."""

    def of(self, model: Any) -> Any:
        """An evaluation: it has `metrics()` and `to_json()`."""
        ...

    def report(self, evaluation: Any, console: Console) -> None:
        """Print an evaluation."""
        ...


def fit(
    model: ModelSpec | ForestModel | ModelConfig | str | Path,
    plan: Plan,
    *,
    steps: int | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    hooks: Sequence[Hook] = (),
    seed: int = 0,
    evaluation: Evaluating | None = None,
    console: Console | None = None,
    **settings: Any,
) -> Result:
    """Train a model as a plan says.

        model = pt.load("embedded")
        result = pt.fit(model, pt.sft(rows), steps=50)
        result.metrics["loss"]

    Args:
        model: a loaded model, which is trained in place, or a folder, a hub id, "embedded".
        plan: what is trained: pt.sft(rows), pt.grpo(task, rewards=[...]), and so on.
        steps: optimiser steps; None takes as many as the plan's epochs need.
        output: a folder for metrics, checkpoints and the model; None writes nothing.
        resume: go on with the run that `output` holds, exactly.
        hooks: called after each step as hook(step, metrics).
        seed: of order, sampling, dropout and fresh weights.
        evaluation: measures the model every `eval_every` steps and at the end.
        console: where progress is printed.
        settings: see `TrainingSettings`: weight_decay, warmup_steps, save_every, ...

    Raises:
        ConfigError, DataError: found before any weights are loaded.
        CheckpointError: the run cannot be resumed as asked; nothing was written.
        TrainingDiverged: a loss, a gradient or a weight is not finite.
        Interrupted: the user stopped the run; a checkpoint holds its state.
    """
    spec = model_spec(model, seed=seed)
    options = TrainingSettings.of(settings)
    console = console or Console()
    folder = None
    if output is not None:
        record = record_of(spec, plan, options, steps=steps, seed=seed)
        folder = RunFolder(
            Path(output), record, command="posttrain.fit", resume=resume, console=console, seed=seed
        )
    elif resume:
        raise ConfigError("resume: it needs output, the folder of the run that is gone on with")
    return Fit(
        spec,
        plan,
        options,
        folder=folder,
        steps=steps,
        seed=seed,
        hooks=hooks,
        evaluation=evaluation,
        console=console,
    ).run()


class Fit:
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
            self._with_start_model()
            start = self._start()
            if start.has_model and start.saved.get("steps", self.work.steps) == self.work.steps:
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
        limit = self._micro_batch_tokens(model)
        if work.filtered is not None:
            self.work = work = work.filtered(model, limit, self.console)
        if reference.cached:
            reference.cache(model, work.compared, max_tokens=limit, console=self.console)

    def _load(self, weights: Path | None) -> Any:
        """The model with its helpers, as the run starts or as a checkpoint left it."""
        plan = self.plan
        if plan.scores is not None:
            return self.spec.load_scores(per=plan.scores, weights=weights)
        in_memory = plan.reference.in_memory(self.objective)
        model = self.spec.load(reference=in_memory, weights=weights)
        if plan.critic is not None:
            critic = plan.critic.model or self.spec.as_critic(adapters=plan.critic.adapters)
            place = weights / "critic" if weights else None
            model.critic = critic.load_scores(per="token", weights=place)
            rate = plan.optimizer.learning_rate
            factor = (plan.critic.learning_rate or rate) / rate
            model.rate_factors |= dict.fromkeys(model.critic.trainable_parameters(), factor)
        if plan.teacher is not None:
            model.teacher = plan.teacher.load_frozen()
            model.foreign = ForeignTeacher(model.teacher, self.spec.tokenizer)
        model.neftune_noise_alpha = plan.noise
        return model

    def _micro_batch_tokens(self, model: ForestModel) -> int:
        """Distinct tokens that one forward pass may hold: as set, or what suits the device."""
        default = 2048 if model.device.type == "cpu" else 16384
        return self.settings.max_tokens_per_micro_batch or default

    def _optimizer(self, model: ForestModel) -> Any:
        s, rates, steps = self.settings, self.plan.optimizer, self.work.steps
        adamw = Optimizer(
            model.trainable_parameters(),
            steps=steps,
            learning_rate=rates.learning_rate,
            weight_decay=s.weight_decay,
            betas=(s.adam_beta1, s.adam_beta2),
            epsilon=s.adam_epsilon,
            schedule=rates.lr_scheduler_type,
            warmup_steps=s.warmup_steps,
            min_lr_ratio=s.min_lr_ratio,
            max_grad_norm=s.max_grad_norm,
            rate_factors=model.rate_factors,
            updates=updates_of(model.hf, steps),
            penalties=self._penalties(model),
        )
        if self.plan.trust_region is None:
            return adamw
        limit = self._micro_batch_tokens(model)
        return TrustRegion(
            model, self.objective, self.plan.trust_region, rest=adamw, max_tokens=limit
        )

    def _penalties(self, model: ForestModel) -> Penalties | None:
        items = [Component.of(item) for item in self.settings.penalties]
        return Penalties(items, model.hf.named_parameters()) if items else None

    # -- the training

    def _train(self, start: resume.Start) -> Result:
        model = self._load(start.checkpoint)
        with _seeded(self.seed), _restored(model):
            optimizer = self._optimizer(model)
            limit = self._micro_batch_tokens(model)

            def start_weights() -> dict[str, torch.Tensor]:
                return self.spec.start_weights(model if start.checkpoint is None else None)

            source = self.work.source(Learner(model, optimizer, limit, start_weights))
            facts = self._facts(start, source, optimizer)
            state = self._restore(start, model, source, optimizer)
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
            change = resume.length_change(start, schedule, self.work.steps, reasons)
            start.changes += [change] if change is not None else []
            start.refuse(self.folder.accept)
        return {"recipe": self.folder.record, "contents": contents}

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
            steps=self.work.steps,
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
        work, steps, every = self.work, self.work.steps, self.settings.eval_every
        first = dict(work.account.metrics)
        hooks: list[Any] = [optimizer.tell] if isinstance(optimizer, TrustRegion) else []
        hooks += self.plan.reference.hooks(model, steps)
        if work.samples and self.folder is not None:
            path = self.folder.path / "rollouts.jsonl"
            hooks.append(RolloutWriter(path, lambda: source.groups, resume_step=state.step))
        if work.measure is not None:
            limit = self._micro_batch_tokens(model)
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
            self._print(f"{folder.path} is finished")
            model = None
        else:
            folder.write(f"{folder.path} is trained; what is left is its evaluation")
            folder.write(*(f"  changed: {change.text}" for change in start.changes))
            model = self._load(weights)
            folder.before_open()
            if path.exists():
                folder.write(f"  kept: {path.name} as {resume.set_evaluation_aside(start).name}")
            folder.open()
            model.eval()
            self.measured.after_training(model, folder, self.console)
        return Result(
            model,
            metrics=read_lines(folder.path / "metrics.jsonl"),
            rollouts=read_lines(folder.path / "rollouts.jsonl"),
            folder=folder.path,
            load=lambda: self._load(weights),
        )

    def _print(self, text: str, style: str = "") -> None:
        from posttrain.terminal import write

        write(self.console, text, style=style)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, which dropout and users' functions draw from; give them back as
    they were.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


@contextlib.contextmanager
def _restored(model: Any) -> Iterator[None]:
    """Leave evaluation mode on, whatever happens."""
    try:
        yield
    finally:
        model.eval()
