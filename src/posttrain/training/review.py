"""What a plan would train on, shown before anything is trained. No weights are loaded."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from posttrain.config import ModelConfig
from posttrain.errors import ConfigError
from posttrain.models.forest_model import ForestModel
from posttrain.models.spec import ModelSpec, model_spec
from posttrain.terminal import styled, write
from posttrain.training import resume
from posttrain.training.folder import RunFolder
from posttrain.training.loop_session import LoopSession
from posttrain.training.plan import Facts, Loop, Plan
from posttrain.training.session import Session


def check(
    model: ModelSpec | ForestModel | ModelConfig | str | Path,
    plan: Plan | Loop,
    *,
    steps: int | None = None,
    seed: int = 0,
    console: Console | None = None,
) -> dict[str, str]:
    """Check a plan for a model, show what it would do, and return that by name.

    Raises:
        ConfigError, DataError: what `fit` would refuse.
    """
    work = plan.prepare(model_spec(model, seed=seed), seed, steps)
    facts = [*work.facts, *work.account.losses.items()]
    write_facts(console or Console(), facts)
    return dict(facts)


def preview(
    model: ModelSpec | ForestModel | ModelConfig | str | Path,
    plan: Plan | Loop,
    num: int = 3,
    *,
    seed: int = 0,
    console: Console | None = None,
) -> None:
    """Show rows as they are trained on, token by token.

    Raises:
        ConfigError: the method samples its own completions.
    """
    work = plan.prepare(model_spec(model, seed=seed), seed, None)
    show = work.preview
    if show is None:
        raise ConfigError(f"{plan.method} samples its own completions; there is nothing to preview")
    show(console or Console(), num)


def write_facts(console: Console, facts: Facts) -> None:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        write(console, "  ", styled(f"{name:<{width}}", "bold"), f"  {value}")


def review_resume(session: Session | LoopSession, folder: RunFolder) -> None:
    """Say from where a resume would go on, and what has changed as far as the recipe shows.

    Raises:
        CheckpointError: the resume would be refused.
    """
    start, steps = session.start(), session.steps
    if start.has_model and start.saved.get("steps", steps) == steps:
        resume.refuse_late_changes(start, steps)
        folder.write(f"{folder.path} is finished. {session.length.longer(start)}")
        return
    if start.checkpoint is not None:
        change = session.length.change(start)
        start.changes += [change] if change is not None else []
        start.refuse(folder.accept)
    folder.write(*resume.announced(start, steps))
