"""Recipes become calls here: of methods, `fit` and `perform`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.config import Recipe
    from posttrain.runs.recipe_run import RecipeRun


def run_of(recipe: Recipe, **options: Any) -> RecipeRun:
    """The run of a recipe. options: as `RecipeRun` takes them."""
    from posttrain.runs.pipeline import PipelineRun
    from posttrain.runs.recipe_run import RecipeRun
    from posttrain.runs.sequences import SequenceRun

    kinds = {"pipeline": PipelineRun, "continual_learning": SequenceRun}
    return kinds.get(recipe.method, RecipeRun)(recipe, **options)
