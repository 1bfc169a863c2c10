"""A pipeline: recipes in order, each starting from the model that the last one trained."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain import registry
from posttrain.config import Recipe
from posttrain.errors import CheckpointError, ConfigError, PosttrainError
from posttrain.loops.pipeline import SUMMARY, run_stages, write_summary
from posttrain.recipe import recipe_as_dict, stage_recipes
from posttrain.runs.recipe_run import Prepared, RecipeRun
from posttrain.terminal import write, write_rule
from posttrain.training.ending import resumed_as
from posttrain.training.plan import Facts


class PipelineRun(RecipeRun):
    """One execution of a recipe with stages."""

    @property
    def recipes(self) -> dict[str, Recipe]:
        """The recipes of the stages by name."""
        return dict(stage_recipes(self.recipe))

    @property
    def stages(self) -> dict[str, RecipeRun]:
        """The runs of the stages by name."""
        folder = self.run_folder
        return {
            name: RecipeRun(
                recipe,
                command=folder.command,
                resume=folder.resume,
                accept=folder.accept,
                console=self.console,
            )
            for name, recipe in self.recipes.items()
        }

    def prepared(self) -> Prepared:
        """All stages, checked."""
        return PreparedPipeline(self)

    @property
    def finished(self) -> bool:
        """Whether all stages and the table are there."""
        stages = self.stages.values()
        return (self.folder / SUMMARY).exists() and all(stage.finished for stage in stages)


class PreparedPipeline(Prepared):
    """A pipeline whose stages are checked."""

    def __init__(self, run: PipelineRun) -> None:
        if run.world.size > 1:
            raise ConfigError(
                f"pipeline: its stages run in one process, and there are {run.world.size}; start "
                "each stage by torchrun, or the pipeline without it"
            )
        self.run = run
        recipes = run.recipes
        self.prepared = {name: _prepared(run, r, recipes) for name, r in recipes.items()}
        self.facts = []
        for name, recipe in recipes.items():
            self.facts.append((name, _description(recipe)))
            self.facts += [(f"  {k}", v) for k, v in self.prepared[name].facts]
        if any(stage.preview for stage in self.prepared.values()):
            self.preview = self._preview
        self.execute = self._execute

    def _preview(self, console: Console, num: int) -> None:
        for name, stage in self.prepared.items():
            if stage.preview is not None:
                write_rule(console, name)
                stage.preview(console, num)

    def _execute(self) -> None:
        with resumed_as(self.run.run_folder.caller.resume(self.run.folder)):
            _execute(self.run, self.run.stages)


def _execute(run: PipelineRun, stages: dict[str, RecipeRun]) -> None:
    """Run the stages that are not done, and write the table of all."""
    folder = run.run_folder
    begun = [name for name, stage in stages.items() if folder.resume and stage.run_folder.holds_run]
    again = _changed_stages(run, {name: stages[name] for name in begun})
    seconds = _seconds_before(run)
    opened: list[bool] = []

    def open_once() -> None:
        if not opened:
            opened.append(True)
            folder.open()

    def is_done(name: str) -> bool:
        done = name in begun and stages[name].finished and name not in again
        if done:
            write(run.console, f"{name}: done before", style="dim")
        return done

    def begin(name: str) -> None:
        stage = stages[name]
        # A stage that refuses to be resumed leaves the pipeline's folder as it was, too.
        stage.run_folder.before_open = open_once
        stage.run_folder.resume = name in begun
        write_rule(run.console, stage.title or name)

    run_stages(stages, is_done=is_done, begin=begin, seconds=seconds)
    open_once()
    title, command = run.title, run.run_folder.command
    write_summary(run.folder, stages, seconds, title=title, command=command)


def _changed_stages(run: RecipeRun, begun: dict[str, RecipeRun]) -> set[str]:
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


def _seconds_before(run: RecipeRun) -> dict[str, float]:
    """How long the stages took that an earlier process ran, where its summary says so."""
    path = run.folder / SUMMARY
    if not run.run_folder.resume or not path.is_file():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8")).get("rows", [])
    return {row["folder"]: row["seconds"] for row in rows if row.get("seconds") is not None}


def _files_of(run: RecipeRun, value: Any) -> list[str]:
    """Paths below the pipeline's folder that a stage's settings name."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [path for part in value for path in _files_of(run, part)]
    return [value] if isinstance(value, str) and value.startswith(f"{run.folder}/") else []


def _description(stage: Recipe) -> str:
    """A stage in words."""
    if stage.settings.get("endpoint") is not None:
        return f"{stage.method} by an endpoint"
    return f"{stage.method} of {stage.model.path if stage.model else '?'}"


def _leaves_critic(stage: Recipe) -> bool:
    """Whether a stage trains a critic: one of its losses asks for values."""
    return any("values" in registry.losses.entry_of(c).inputs for c in stage.losses)


def _prepared(run: PipelineRun, stage: Recipe, stages: Mapping[str, Recipe]) -> Prepared:
    """A stage prepared with the pipeline's first model, for the sake of its checks.

    The model that the stage starts from is not there yet; it will have the first one's tokenizer
    and configuration. So the mistakes of every stage come to light before the first one begins.
    """
    ahead = (
        stage.model is not None
        and run.recipe.model is not None
        and not Path(run.call.resolve(stage.model.path)).exists()
    )
    recipe = dataclasses.replace(stage, model=run.recipe.model) if ahead else stage
    critic = None
    if ahead and stage.model is not None:
        trainer = stages.get(Path(stage.model.path).parent.name)
        critic = trainer is not None and _leaves_critic(trainer)
    files = _files_of(run, recipe_as_dict(dataclasses.replace(recipe, output="")))
    missing = [path for path in files if not Path(path).exists()]
    if missing:
        text = f"{missing[0]}, which an earlier stage writes; the rest is checked then"
        return Waiting([("waits for", text)])
    try:
        return RecipeRun(recipe, console=run.console, critic_ahead=critic).prepared()
    except PosttrainError as error:
        error.args = (f"stage {Path(stage.output or '').name!r}: {error}",)
        raise


class Waiting(Prepared):
    """A stage whose files an earlier stage writes."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
