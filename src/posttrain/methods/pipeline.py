"""Several stages, each starting from the model that the last one trained."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

from posttrain.config import Recipe
from posttrain.errors import PosttrainError
from posttrain.methods.evaluating import summarise
from posttrain.methods.run import Interrupted, Job, Run
from posttrain.recipe import recipe_as_dict, stage_recipes
from posttrain.registry import methods
from posttrain.terminal import write, write_rule


@methods.register
def pipeline(run, *, stages: list[dict[str, Any]]) -> Job:
    """Run stages in order and compare each with the one before on the same problems, paired.

    Each stage is a recipe with a name; it inherits seed, plugins, evaluation and the model of the stage before. The table
    of all stages goes to summary.json.
    """
    recipes = stage_recipes(run.recipe)
    runs = {name: Run(r, command=run.command, resume=run.resume, console=run.console) for name, r in recipes}
    jobs = {name: _prepared(run, r) for name, r in recipes}
    facts = [line for name, r in recipes for line in [(name, _what(r)), *((f"  {k}", v) for k, v in jobs[name].facts)]]

    def preview(num: int) -> None:
        for name, job in jobs.items():
            if job.preview is not None:
                write_rule(run.console, name)
                job.preview(num)

    def execute() -> None:
        try:
            run_stages()
        except KeyboardInterrupt as stop:
            # A stage names its own folder; what the user wants to go on with is the whole.
            raise Interrupted(f"stopped; what is done is saved. Go on with: posttrain resume {run.folder}") from stop

    def run_stages() -> None:
        run.open()
        seconds: dict[str, float] = {}
        for name, stage in runs.items():
            if run.resume and stage.finished:
                write(run.console, f"{name}: done before", style="dim")
                continue
            stage.resume = run.resume and (stage.folder / "recipe.yaml").exists()
            write_rule(run.console, stage.recipe.title or name)
            started = time.perf_counter()
            stage.execute()
            seconds[name] = time.perf_counter() - started
        summarise(run, runs, seconds)

    return Job(facts, execute, preview if any(job.preview for job in jobs.values()) else None)


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


def _prepared(run: Run, stage: Recipe) -> Job:
    """A stage's job made with the pipeline's first model, for the sake of its checks.

    The model that the stage starts from is not there yet; it will have the first one's tokenizer and configuration. So the
    mistakes of every stage come to light before the first one begins.
    """
    ahead = stage.model is not None and run.recipe.model is not None and not Path(run.resolve(stage.model.path)).exists()
    recipe = dataclasses.replace(stage, model=run.recipe.model) if ahead else stage
    missing = [p for p in _files_of(run, recipe_as_dict(dataclasses.replace(recipe, output=""))) if not Path(p).exists()]
    if missing:
        return Job([("waits for", f"{missing[0]}, which an earlier stage writes; the rest is checked then")], lambda: None)
    try:
        return Run(recipe, console=run.console).job()
    except PosttrainError as error:
        error.args = (f"stage {Path(stage.output or '').name!r}: {error}",)
        raise
