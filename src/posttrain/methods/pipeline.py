"""Several stages, each starting from the model that the last one trained."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from posttrain import registry
from posttrain.config import Recipe
from posttrain.errors import CheckpointError, PosttrainError
from posttrain.methods.evaluating import summarise
from posttrain.methods.run import SUMMARY, Interrupted, Job, Run
from posttrain.recipe import recipe_as_dict, stage_recipes
from posttrain.registry import methods
from posttrain.terminal import write, write_rule


@methods.register
def pipeline(run, *, stages: list[dict[str, Any]]) -> Job:
    """Run stages in order and compare each with the one before on the same problems, paired.

    Each stage is a recipe with a name; it inherits seed, plugins, evaluation and the model of the
    stage before. The table of all stages goes to summary.json.
    """
    recipes = stage_recipes(run.recipe)
    runs = {
        name: Run(r, command=run.command, resume=run.resume, accept=run.accept, console=run.console)
        for name, r in recipes
    }
    jobs = {name: _prepared(run, r, dict(recipes)) for name, r in recipes}
    facts = [
        line
        for name, r in recipes
        for line in [(name, _what(r)), *((f"  {k}", v) for k, v in jobs[name].facts)]
    ]

    def preview(num: int) -> None:
        for name, job in jobs.items():
            if job.preview is not None:
                write_rule(run.console, name)
                job.preview(num)

    def execute() -> None:
        try:
            _execute(run, runs)
        except KeyboardInterrupt as stop:
            # A stage names its own folder; what the user wants to go on with is the whole.
            text = "stopped; what is done is saved"
            if isinstance(stop, Interrupted):
                text = str(stop).partition("; go on")[0].partition(" Go on")[0].rstrip(".")
            raise Interrupted(f"{text}. Go on with: posttrain resume {run.folder}") from stop

    return Job(facts, execute, preview if any(job.preview for job in jobs.values()) else None)


def _execute(run: Run, runs: dict[str, Run]) -> None:
    """Run the stages that are not done, and write the table of all."""
    begun = [
        name
        for name, stage in runs.items()
        if run.resume and (stage.folder / "recipe.yaml").exists()
    ]
    again = _changed_stages(run, {name: runs[name] for name in begun})
    seconds = _seconds_before(run)
    opened: list[bool] = []

    def open_once() -> None:
        if not opened:
            opened.append(True)
            run.open()

    for name, stage in runs.items():
        if name in begun and stage.finished and name not in again:
            write(run.console, f"{name}: done before", style="dim")
            continue
        # A stage that refuses to be resumed leaves the pipeline's folder as it was, too.
        stage.before_open = open_once
        stage.resume = name in begun
        write_rule(run.console, stage.recipe.title or name)
        started = time.perf_counter()
        stage.execute()
        seconds[name] = time.perf_counter() - started
    open_once()
    summarise(run, runs, seconds)


def _changed_stages(run: Run, begun: dict[str, Run]) -> set[str]:
    """The finished stages that a changed recipe runs again: they are trained on, or measured in
    another way.

    Raises:
        CheckpointError: a finished stage changes from whose model later stages have begun; nothing
        was written.
    """
    again: set[str] = set()
    names = list(begun)
    for number, (name, stage) in enumerate(begun.items()):
        if not stage.finished:
            continue
        changes = stage.changes()
        trained = [c for c in changes if c.rule not in ("free", "rounding", "content")]
        measured = [c for c in changes if c.name.startswith("evaluation")]
        later = names[number + 1 :]
        if (trained and later) or ((trained or measured) and not stage.trains):
            lines = "".join(f"\n  {c.text}" for c in trained or measured)
            after = f", and {', '.join(later)} went on from it" if later else ""
            raise CheckpointError(
                f"{run.folder} is not resumed, and nothing was changed in it: stage {name!r} is "
                f"done{after}:{lines}\n"
                "Undo the change, or start a new pipeline with another output=..."
            )
        if trained or measured:
            again.add(name)
    return again


def _seconds_before(run: Run) -> dict[str, float]:
    """How long the stages took that an earlier process ran, where its summary says so."""
    path = run.folder / SUMMARY
    if not run.resume or not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8")).get("rows", [])
    return {row["folder"]: row["seconds"] for row in rows if row.get("seconds") is not None}


def _files_of(run: Run, value: Any) -> list[str]:
    """Paths below the pipeline's folder that a stage's settings name."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [path for part in value for path in _files_of(run, part)]
    return [value] if isinstance(value, str) and value.startswith(f"{run.folder}/") else []


def _what(stage: Recipe) -> str:
    """A stage in words."""
    if stage.settings.get("endpoint") is not None:
        return f"{stage.method} by an endpoint"
    return f"{stage.method} of {stage.model.path if stage.model else '?'}"


def _leaves_critic(stage: Recipe) -> bool:
    """Whether a stage trains a critic: one of its losses asks for values."""
    return any("values" in registry.losses.entry(c.name).inputs for c in stage.losses)


def _prepared(run: Run, stage: Recipe, stages: Mapping[str, Recipe]) -> Job:
    """A stage's job made with the pipeline's first model, for the sake of its checks.

    The model that the stage starts from is not there yet; it will have the first one's tokenizer
    and configuration. So the mistakes of every stage come to light before the first one begins.
    """
    ahead = (
        stage.model is not None
        and run.recipe.model is not None
        and not Path(run.resolve(stage.model.path)).exists()
    )
    recipe = dataclasses.replace(stage, model=run.recipe.model) if ahead else stage
    critic = None
    if ahead and stage.model is not None:
        trainer = stages.get(Path(stage.model.path).parent.name)
        critic = trainer is not None and _leaves_critic(trainer)
    missing = [
        p
        for p in _files_of(run, recipe_as_dict(dataclasses.replace(recipe, output="")))
        if not Path(p).exists()
    ]
    if missing:
        return Job(
            [
                (
                    "waits for",
                    f"{missing[0]}, which an earlier stage writes; the rest is checked then",
                )
            ],
            lambda: None,
        )
    try:
        prepared = Run(recipe, console=run.console)
        prepared.critic_ahead = critic
        return prepared.job()
    except PosttrainError as error:
        error.args = (f"stage {Path(stage.output or '').name!r}: {error}",)
        raise
