"""A recipe of a sequence of trainings: its stages become plans, and all its runs are made."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from posttrain.config import Component, EvaluationConfig, Recipe
from posttrain.errors import ConfigError, PosttrainError
from posttrain.evaluation.sequences import FILE
from posttrain.loops.sequences import SequenceRecipe, continual_table, labels_of
from posttrain.recipe import component, stage_recipes
from posttrain.runs.calls import Call
from posttrain.runs.recipe_run import Prepared, RecipeRun
from posttrain.terminal import write
from posttrain.training.ending import resumed_as
from posttrain.training.plan import Plan
from posttrain.training.settings import TrainingSettings

_OF_THE_SEQUENCE = ("model", "output", "seed", "report_to")
"""Keys that the stages have in common, so that none of them has its own."""


class SequenceRun(RecipeRun):
    """One execution of a recipe with stages that are trained one after the other."""

    def prepared(self) -> Prepared:
        """All stages, checked."""
        return PreparedSequence(self)

    @property
    def finished(self) -> bool:
        """Whether the table is there."""
        return (self.folder / FILE).is_file()


class PreparedSequence(Prepared):
    """A sequence whose stages are checked."""

    def __init__(self, run: SequenceRun) -> None:
        if run.world.size > 1:
            raise ConfigError(
                f"continual_learning: its stages run in one process, and there are "
                f"{run.world.size}; start it without torchrun"
            )
        self.run = run
        made = run.call.make()
        assert isinstance(made, SequenceRecipe)
        self.options = made.options
        self.others = {name: _task(run.call, task, name) for name, task in made.others.items()}
        self.spec = run.call.trained_model
        self.facts = [("methods", "; ".join(labels_of(made.options["retentions"])))]
        self.plans: dict[str, Plan] = {}
        self.suites: dict[str, EvaluationConfig] = {}
        self.settings: dict[str, dict[str, Any]] = {}
        _refuse_own(run.recipe)
        for name, recipe in stage_recipes(run.recipe):
            try:
                self._add(name, recipe)
            except PosttrainError as error:
                error.args = (f"stage {name!r}: {error}",)
                raise
        self.execute = self._execute

    def _add(self, name: str, recipe: Recipe) -> None:
        """A stage: its plan, what it is measured on, and the settings of its training."""
        call = Call(recipe, notice=lambda text: None)
        plan = call.make()
        if not isinstance(plan, Plan):
            raise ConfigError(
                f"method {recipe.method!r} makes no plan of one training; take sft, dpo, grpo, "
                "ppo or another that trains"
            )
        work = plan.prepare(self.spec, recipe.seed, recipe.max_steps)
        work.close()
        call.refuse_unread()
        self.plans[name] = plan
        if recipe.evaluation is not None:
            self.suites[name] = call.evaluation_of(recipe.evaluation)
        fields = dataclasses.fields(TrainingSettings)
        given = {f.name: getattr(call.training, f.name) for f in fields}
        default = {f.name: getattr(TrainingSettings(), f.name) for f in fields}
        changed = {key: value for key, value in given.items() if value != default[key]}
        self.settings[name] = {"steps": recipe.max_steps, **changed}
        self.facts.append((name, f"{recipe.method}, {work.steps} steps"))
        self.facts += [(f"  {k}", v) for k, v in work.facts]

    def _execute(self) -> Path:
        run, folder = self.run, self.run.run_folder
        if folder.resume:
            folder.refuse_other_recipe()
            if run.finished:
                write(run.console, f"{folder.path} is finished")
                return run.folder
        else:
            folder.open()
        with resumed_as(folder.caller.resume(folder.path)):
            continual_table(
                self.spec,
                self.plans,
                suites=self.suites,
                others=self.others,
                of_stage=self.settings,
                seed=run.recipe.seed,
                output=folder.path,
                resume=folder.resume,
                console=run.console,
                **self.options,
            )
        return run.folder


def _refuse_own(recipe: Recipe) -> None:
    """Refuse keys in stages that all of them have in common.

    Raises:
        ConfigError: names the key.
    """
    if recipe.evaluation is not None:
        raise ConfigError(
            "evaluation: every stage is measured on its own task; give each stage its evaluation, "
            "and abilities that none trains as others"
        )
    for stage in recipe.stages:
        for key in _OF_THE_SEQUENCE:
            if key in stage:
                raise ConfigError(
                    f"stage {stage.get('name')!r}: {key} is one of the whole sequence; set it "
                    "beside stages"
                )


def _task(call: Call, value: Any, name: str) -> Component:
    return call._task(component(value, f"others.{name}"))
