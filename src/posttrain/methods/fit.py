"""`fit` trains a model as a plan says. It is the only thing that trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from posttrain.config import ModelConfig
from posttrain.errors import ConfigError, shown
from posttrain.limits import check_values
from posttrain.methods.measurement import measuring_of
from posttrain.methods.objects import TaskLike
from posttrain.models.forest_model import ForestModel
from posttrain.models.spec import ModelSpec, model_spec
from posttrain.training.folder import RunFolder
from posttrain.training.hooks import Hook
from posttrain.training.loop_session import LoopSession
from posttrain.training.measurement import Evaluating
from posttrain.training.plan import Loop, Plan
from posttrain.training.progress import console_of
from posttrain.training.record import record_of
from posttrain.training.result import Result
from posttrain.training.session import Session
from posttrain.training.settings import TrainingSettings
from posttrain.typecheck import check_in_python
from posttrain.world import World


def fit(
    model: ModelSpec | ForestModel | ModelConfig | str | Path,
    plan: Plan | Loop,
    *,
    steps: int | None = None,
    after: Result | None = None,
    schedule_steps: int | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    accept: Sequence[str] = (),
    hooks: Sequence[Hook] = (),
    seed: int = 0,
    evaluation: TaskLike | Evaluating | None = None,
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
        resume: go on with the run that `output` holds, exactly. A loaded model takes over the
            weights of the checkpoint, whatever it holds.
        accept: names of changes since the checkpoint that a resume may make although an
            undisturbed run would not have had them, such as "steps" or "learning_rate".
        hooks: called after each step as hook(step, metrics).
        seed: of order, sampling, dropout and fresh weights.
        evaluation: a task, or rows with answers, on which the model is measured every `eval_every`
            steps and at the end, as `pt.evaluate` does; or what `of(model)` measures.
        console: where progress is printed.
        settings: see `TrainingSettings`: weight_decay, warmup_steps, save_every, ...

    In each of the processes that torchrun starts, the call trains its share of every batch, and
    the main process writes and prints (see `World`).

    Raises:
        ConfigError, DataError: found before any weights are loaded; weights other than those that
            `after` left, before anything is trained.
        CheckpointError: the run cannot be resumed as asked; nothing was written.
        TrainingDiverged: a loss, a gradient or a weight is not finite.
        Interrupted: the user stopped the run; a checkpoint holds its state.
        RankError: another process has failed or ended.
    """
    steps, seed = _checked(plan, steps, seed)
    spec = model_spec(model, seed=seed)
    options = TrainingSettings.of(settings, plan.method, plan.settings)
    world = World.here()
    console = console_of(world, console)
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
            Path(output),
            record,
            command="posttrain.fit",
            resume=resume,
            accept=["max_steps" if name == "steps" else name for name in accept],
            console=console,
            seed=seed,
            world=world,
        )
    elif resume:
        raise ConfigError("resume: it needs output, the folder of the run that is gone on with")
    _check_continuation(plan, after, schedule_steps)
    with _measuring(spec, evaluation) as measuring:
        shared: dict[str, Any] = {
            "folder": folder,
            "steps": steps,
            "seed": seed,
            "hooks": hooks,
            "evaluation": measuring,
            "console": console,
            "world": world,
        }
        if isinstance(plan, Loop):
            return LoopSession(spec, plan, options, **shared).run()
        session = Session(spec, plan, options, after=after, schedule_steps=schedule_steps, **shared)
        return session.run()


def _checked(plan: Plan | Loop, steps: int | None, seed: int) -> tuple[int | None, int]:
    """The number of steps and the seed, as a call of a user gives them."""
    if not isinstance(plan, Plan | Loop):
        raise ConfigError(
            f"plan: {shown(plan)} is no plan; a method makes one, such as pt.sft(rows)"
        )
    steps = check_in_python(steps, int | None, "steps")
    seed = check_in_python(seed, int, "seed")
    if steps is not None and steps < 1:
        raise ConfigError(f"steps: {steps} must be at least 1; leave it out to train whole epochs")
    check_values({"seed": seed})
    return steps, seed


def _check_continuation(
    plan: Plan | Loop, after: Result | None, schedule_steps: int | None
) -> None:
    if isinstance(plan, Loop) and (after is not None or schedule_steps is not None):
        raise ConfigError(
            f"after, schedule_steps: {plan.method} is a loop, whose rounds go on from each other; "
            "they are for a fit of a plan"
        )


@contextlib.contextmanager
def _measuring(
    spec: ModelSpec, evaluation: TaskLike | Evaluating | None
) -> Iterator[Evaluating | None]:
    """What measures the model: the caller's own, or one of a task, closed in the end."""
    if evaluation is None or hasattr(evaluation, "report"):
        yield cast(Evaluating | None, evaluation)
        return
    measuring = measuring_of(spec, evaluation)
    with contextlib.closing(measuring):
        yield measuring
