"""The strategy of a recipe: its search, scorer and oracle keys."""

from __future__ import annotations

from collections.abc import Mapping

from posttrain.config import ComponentLike
from posttrain.errors import ConfigError
from posttrain.search.scorer import gold_inputs, gold_rewards
from posttrain.search.strategy import Strategy, strategy
from posttrain.types import Task

__all__ = ["Strategy", "gold_inputs", "gold_rewards", "make_strategy"]


def make_strategy(
    search: ComponentLike | Strategy | None,
    scorer: ComponentLike | None,
    *,
    oracle: bool,
    task: Task | None = None,
    limits: Mapping[str, float] | None = None,
) -> Strategy | None:
    """A strategy checked before weights are loaded, its scorer ready for the task.

    Args:
        oracle: permits a scorer that reads the gold. `scorer: oracle`, the task's own verdict, says
            so by its name.
        limits: of the scorer's time and failures, as `RewardSet` takes them.

    Raises:
        ConfigError: a scorer that is missing, superfluous, or reads the gold without permission.
    """
    if search is None:
        for key, value in (("scorer", scorer), ("oracle", oracle)):
            if value:
                raise ConfigError(
                    f"{key}: it guides a search; name one, such as search: {{name: best_of_n, "
                    f"num_samples: 8}}"
                )
        return None
    checked = strategy(search).with_scorer(scorer, oracle)
    return checked if task is None else checked.open(task, limits)
