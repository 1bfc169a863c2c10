"""What a search chooses by, and whether it reads the gold."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from posttrain import registry
from posttrain.config import Component
from posttrain.errors import ConfigError, nearest
from posttrain.rewards.base import RewardSet
from posttrain.rewards.grader import TaskGrader
from posttrain.search.score_sources import (
    AGGREGATIONS,
    Ensemble,
    Items,
    Logprobs,
    RewardScores,
    ScoreSource,
    Verdicts,
)
from posttrain.typecheck import check
from posttrain.types import Task

ORACLE = "oracle"
"""The scorer that is the task's own verdict."""

LOGPROBS = ("logprob", "mean_logprob")
"""Scorers that are the log-prob of a candidate under the model, in nats: its sum, or per token."""

ENSEMBLE = "ensemble"
"""The scorer that combines several: {name: ensemble, scorers: [...], combine: mean}."""

_ENSEMBLE_SETTINGS: dict[str, Any] = {
    "scorers": list[Any],
    "combine": Literal["mean", "min", "uncertainty"],
    "uncertainty_weight": float,
}
_COMBINED: dict[str, Any] = {"combine": "mean", "uncertainty_weight": 1.0}

_SPELLINGS = {"product": "prod", "minimum": "min"}  # of rewards that aggregate by themselves

# What a deployed system has of a problem; every other input of a reward is the gold, or a column of
# the data.
_DEPLOYABLE = frozenset(
    {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}
)


def gold_inputs(reward: str | Callable[..., Any]) -> list[str]:
    """Inputs of a reward that a deployed system lacks: answer, examples, task, columns of the data.

    They are read from the reward's signature. A reward that takes **kwargs gets every column, the
    answer among them.
    """
    if isinstance(reward, str):
        entry = registry.rewards.entry(reward)
        names, all_columns = list(entry.inputs), entry.accepts_columns
    else:
        parameters = inspect.signature(reward).parameters.values()
        names = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        all_columns = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return [name for name in names if name not in _DEPLOYABLE] + ["**kwargs"] * all_columns


def gold_inputs_of(component: Component) -> list[str]:
    """`gold_inputs` of a reward with its settings."""
    return gold_inputs(component.function or component.name)


def gold_rewards(components: Sequence[Component]) -> list[str]:
    """Names of those rewards that read the gold."""
    return [c.name for c in components if gold_inputs_of(c)]


@dataclass(frozen=True, slots=True)
class Scorer:
    """A scorer that is ready to score.

    gold: what it reads that a deployed system does not have; empty for a scorer that can be
    deployed. source: where its numbers come from.
    """

    name: str
    settings: dict[str, Any]
    gold: tuple[str, ...]
    source: ScoreSource

    @property
    def oracle(self) -> bool:
        """Whether it reads the gold."""
        return bool(self.gold)

    def scores(self, items: Items, grader: TaskGrader | None) -> list[list[float]]:
        """A number for each candidate of each example; -inf where the scorer gives none.

        grader: of the task, for an oracle.

        Raises:
            ConfigError: an oracle without a task. RewardError: the reward fails too often.
        """
        return self.source.scores(items, grader)

    def close(self) -> None:
        """Release what the scorer holds."""
        self.source.close()


def gold_of(scorer: Component) -> tuple[str, ...]:
    """What a scorer reads that a deployed system lacks: the gold, of any of an ensemble."""
    if scorer.function is None:
        if scorer.name == ORACLE:
            return ("task",)
        if scorer.name in LOGPROBS:
            return ()
        if scorer.name == ENSEMBLE:
            gold = [name for member in members(scorer) for name in gold_of(member)]
            return tuple(dict.fromkeys(gold))
    return tuple(gold_inputs_of(scorer))


def members(ensemble: Component) -> list[Component]:
    """The scorers of an ensemble.

    Raises:
        ConfigError: a setting that it does not have, or less than two scorers.
    """
    for key, value in ensemble.settings.items():
        if key not in _ENSEMBLE_SETTINGS:
            raise ConfigError(
                f"scorer: ensemble has no setting {key!r}: {nearest(key, _ENSEMBLE_SETTINGS)}"
            )
        check(value, _ENSEMBLE_SETTINGS[key], f"scorer.{key}")
    scorers = [Component.of(value) for value in ensemble.settings.get("scorers", ())]
    if len(scorers) < 2:
        raise ConfigError(
            f"scorer: ensemble: scorers has {len(scorers)}; name at least two, such as "
            "{name: ensemble, scorers: [mean_logprob, {name: reward_model, path: FOLDER}]}"
        )
    return scorers


def open_scorer(scorer: Component, task: Task, limits: Mapping[str, float] | None = None) -> Scorer:
    """The scorer of a component, tried on examples of the task before weights are loaded.

    Args:
        limits: max_failed and timeout_seconds, as `RewardSet` takes them.

    Raises:
        ConfigError: a wrong setting. RewardError: the reward fails its self-test.
    """
    gold = gold_of(scorer)
    if scorer.function is None:
        if scorer.name == ORACLE:
            return Scorer(ORACLE, {}, gold, Verdicts())
        if scorer.name in LOGPROBS:
            return Scorer(scorer.name, {}, gold, Logprobs(scorer.name == "mean_logprob"))
        if scorer.name == ENSEMBLE:
            return _open_ensemble(scorer, task, limits)
    scorer, aggregation = _with_aggregation(scorer)
    rewards = RewardSet([scorer], task=task, **(limits or {}))
    rewards.self_test(task.examples)
    settings = dict(scorer.settings)
    if scorer.function is None:
        entry = registry.rewards.entry(scorer.name)
        settings = {k: s.default for k, s in entry.settings.items()} | settings
        for name in ("model", "ref_model", "engine", "tokenizer"):
            settings[name] = _described(settings.get(name))
        settings = {k: v for k, v in settings.items() if v is not None or k in entry.settings}
    if aggregation is not None:
        settings["aggregation"] = aggregation
    per_step = aggregation is not None or _gives_steps(scorer)
    source = RewardScores(
        rewards, aggregation or "mean", tuple(task.stop), per_step and "task" in gold
    )
    return Scorer(rewards.names[0], settings, gold, source)


def _open_ensemble(
    scorer: Component, task: Task, limits: Mapping[str, float] | None = None
) -> Scorer:
    settings: dict[str, Any] = _COMBINED | scorer.settings
    parts = members(scorer)
    scorers = [open_scorer(replace(part, weight=1.0), task, limits) for part in parts]
    weights = [part.weight for part in parts]
    settings["scorers"] = [
        {"name": s.name, **s.settings} | ({"weight": w} if w != 1.0 else {})
        for s, w in zip(scorers, weights, strict=True)
    ]
    source = Ensemble(
        [s.source for s in scorers], weights, settings["combine"], settings["uncertainty_weight"]
    )
    return Scorer(ENSEMBLE, settings, gold_of(scorer), source)


def _gives_steps(scorer: Component) -> bool:
    """Whether a reward gives a number per step."""
    return bool(registry.rewards.entry_of(scorer).declared.get("per") == "step")


def _with_aggregation(scorer: Component) -> tuple[Component, str | None]:
    """The component without its aggregation, and that aggregation where the scorer applies it.

    A reward that aggregates its steps itself gets it as a setting.

    Raises:
        ConfigError: a reward without steps, or no such aggregation.
    """
    settings = dict(scorer.settings)
    own = "aggregation" in registry.rewards.entry_of(scorer).settings
    name = scorer.aggregation or (None if own else settings.pop("aggregation", None))
    if name is None:
        return scorer, None
    if own:
        settings["aggregation"] = _SPELLINGS.get(name, name)
        return replace(scorer, settings=settings, aggregation=None), None
    if not _gives_steps(scorer):
        raise ConfigError(
            f"scorer: the reward {scorer.name!r} gives one number for a completion, so that there "
            f"are no steps for aggregation {name!r}; leave it out"
        )
    if name not in AGGREGATIONS:
        raise ConfigError(
            f"scorer: unknown aggregation {name!r}: {nearest(str(name), AGGREGATIONS)}"
        )
    return replace(scorer, settings=settings, aggregation=None), str(name)


def _described(value: Any) -> Any:
    """A loaded object in evaluation.json: the name of its type."""
    return value if value is None or isinstance(value, str) else type(value).__name__


def check_scorer(search: str, scorer: Component | None, oracle: bool) -> None:
    """Refuse a scorer that is missing, has a weight, or reads the gold without permission.

    Args:
        search: its name, for messages.
        oracle: permits a scorer that reads the gold.

    Raises:
        ConfigError: names the scorer and the way out.
    """
    choices = [name for name in registry.rewards.names() if not gold_inputs(name)]
    choices += [*LOGPROBS, ENSEMBLE]
    if scorer is None:
        raise ConfigError(
            f"search {search!r} needs a scorer, which says what sample is best: one of "
            f"{', '.join(choices)} (such as scorer: {{name: reward_model, path: FOLDER}}), or "
            "scorer: oracle, the task's own verdict, which no deployed system has"
        )
    if scorer.weight != 1.0:
        raise ConfigError(
            f"scorer: {scorer.name!r} stands alone, so that a weight changes nothing; weights are "
            "of the scorers of an ensemble"
        )
    _check_one(scorer, oracle, choices)
    if oracle and not gold_of(scorer):
        raise ConfigError(
            f"oracle: the scorer {scorer.name!r} reads no gold, so that it changes nothing; leave "
            "it out"
        )


def _check_one(scorer: Component, oracle: bool, choices: list[str]) -> None:
    """Refuse a scorer, or one of an ensemble, that cannot be or is not permitted."""
    if scorer.function is None and scorer.name in (ORACLE, *LOGPROBS):
        if scorer.settings or scorer.aggregation is not None:
            key = next(iter(scorer.settings), "aggregation")
            what = "the task's own verdict" if scorer.name == ORACLE else "a sum of log-probs"
            raise ConfigError(f"scorer: {scorer.name} is {what} and has no setting {key!r}")
        return
    if scorer.function is None and scorer.name == ENSEMBLE:
        for member in members(scorer):
            _check_one(member, oracle, choices)
        return
    if scorer.function is None and scorer.name not in registry.rewards.names():
        raise ConfigError(
            f"scorer: unknown reward {scorer.name!r}: {nearest(scorer.name, [*choices, ORACLE])}"
        )
    gold = gold_inputs_of(scorer)
    if gold and not oracle:
        raise ConfigError(
            f"scorer: the reward {scorer.name!r} reads {', '.join(gold)}, which a deployed system "
            f"does not have, so that the search would be an oracle. Take one of "
            f"{', '.join(choices)}, or set oracle: true, which allows and reports it"
        )
    _with_aggregation(scorer)
