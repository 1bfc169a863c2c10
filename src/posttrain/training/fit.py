"""`fit` trains a model as a plan says. It is the only thing that trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain.config import ModelConfig
from posttrain.errors import ConfigError
from posttrain.models.forest_model import ForestModel
from posttrain.models.spec import ModelSpec, model_spec
from posttrain.training.folder import RunFolder
from posttrain.training.hooks import Hook
from posttrain.training.loop_session import LoopSession
from posttrain.training.plan import Loop, Plan
from posttrain.training.record import record_of
from posttrain.training.result import Result
from posttrain.training.session import Evaluating, Session
from posttrain.training.settings import TrainingSettings


def fit(
    model: ModelSpec | ForestModel | ModelConfig | str | Path,
    plan: Plan | Loop,
    *,
    steps: int | None = None,
    after: Result | None = None,
    schedule_steps: int | None = None,
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
        plan: what is trained: pt.sft(rows), pt.grpo(task, rewards=[...]), and so on; or a loop of
            rounds, such as pt.self_training(task).
        steps: optimiser steps; None takes as many as the plan's epochs need.
        after: the result of an earlier fit of this model, with the weights as that fit left them.
            The optimiser's moments, the random numbers and the count of steps go on from there;
            `steps` stays the number of steps of this fit. A reference is the model as it is now,
            and a source's own state (a moving baseline) begins anew.
        schedule_steps: number of the step at which the schedule of the learning rate ends; None is
            the last step of this fit. Two fits of 5 steps, each over a schedule of 10, equal one
            fit of 10.
        output: a folder for metrics, checkpoints and the model; None writes nothing.
        resume: go on with the run that `output` holds, exactly.
        hooks: called after each step as hook(step, metrics).
        seed: of order, sampling, dropout and fresh weights.
        evaluation: measures the model every `eval_every` steps and at the end.
        console: where progress is printed.
        settings: see `TrainingSettings`: weight_decay, warmup_steps, save_every, ...

    Raises:
        ConfigError, DataError: found before any weights are loaded; weights other than those that
            `after` left, before anything is trained.
        CheckpointError: the run cannot be resumed as asked; nothing was written.
        TrainingDiverged: a loss, a gradient or a weight is not finite.
        Interrupted: the user stopped the run; a checkpoint holds its state.
    """
    spec = model_spec(model, seed=seed)
    options = TrainingSettings.of(settings)
    console = console or Console()
    folder = None
    if output is not None:
        record = record_of(
            spec,
            plan,
            options,
            steps=steps,
            seed=seed,
            after_step=None if after is None else after.step,
            schedule_steps=schedule_steps,
        )
        folder = RunFolder(
            Path(output), record, command="posttrain.fit", resume=resume, console=console, seed=seed
        )
    elif resume:
        raise ConfigError("resume: it needs output, the folder of the run that is gone on with")
    if isinstance(plan, Loop):
        if after is not None or schedule_steps is not None:
            raise ConfigError(
                f"after, schedule_steps: {plan.method} is a loop, whose rounds go on from each "
                "other; they are for a fit of a plan"
            )
        return LoopSession(
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
    return Session(
        spec,
        plan,
        options,
        folder=folder,
        steps=steps,
        seed=seed,
        hooks=hooks,
        evaluation=evaluation,
        console=console,
        after=after,
        schedule_steps=schedule_steps,
    ).run()
