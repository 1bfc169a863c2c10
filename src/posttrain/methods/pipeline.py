"""Several stages, each starting from the model that the last one trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from posttrain.registry import methods


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of a pipeline, as a recipe writes them."""

    recipes: tuple[dict[str, Any], ...]


@methods.register
def pipeline(*, stages: list[dict[str, Any]]) -> Stages:
    """Run stages in order and compare each with the one before on the same problems, paired.

    Each stage is a recipe with a name. It inherits seed, plugins, evaluation and the model of the
    stage before. The table of all stages goes to summary.json. In Python a pipeline is a `for`
    statement over `fit` and `evaluate`.

    Args:
        stages: recipes with a name each.
    """
    return Stages(tuple(stages))
