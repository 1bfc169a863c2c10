"""What a search chooses by, and whether it reads the gold."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain import registry
from posttrain.config import Component
from posttrain.errors import ConfigError, nearest
from posttrain.rewards.base import RewardSet
from posttrain.rewards.grader import TaskGrader
from posttrain.search.base import Candidate
from posttrain.types import Example, Sample, Task, Trace

ORACLE = "oracle"
"""The scorer that is the task's own verdict."""

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
    deployed. rewards: the reward, or None for the task's own verdict.
    """

    name: str
    settings: dict[str, Any]
    gold: tuple[str, ...]
    rewards: RewardSet | None

    @property
    def oracle(self) -> bool:
        """Whether it reads the gold."""
        return bool(self.gold)

    def scores(
        self, items: Sequence[tuple[Example, Sequence[Candidate]]], grader: TaskGrader | None
    ) -> list[list[float]]:
        """A number for each candidate of each example; -inf where the reward gives none.

        grader: of the task, for an oracle.

        Raises:
            ConfigError: an oracle without a task. RewardError: the reward fails too often.
        """
        if self.rewards is None:
            if grader is None:
                raise ConfigError("scorer: oracle needs a task, whose verdict it is")
            return [grader.grades([c.text for c in group], example) for example, group in items]
        pairs = [(example, _trace(c)) for example, group in items for c in group]
        numbers = iter(self.rewards.score_pairs(pairs))
        return [[next(numbers) for _ in group] for _, group in items]

    def close(self) -> None:
        """Release what the reward holds."""
        if self.rewards is not None:
            self.rewards.close()


def _trace(candidate: Candidate) -> Trace:
    """A candidate as rewards read it."""
    reason: Any = "stop" if candidate.ended else "length"
    sample = Sample(list(candidate.ids), [], [], reason, candidate.stop_string)
    return Trace.of_sample(candidate.context_ids, sample, candidate.text)


def open_scorer(scorer: Component, task: Task, limits: Mapping[str, float] | None = None) -> Scorer:
    """The scorer of a component, tried on examples of the task before weights are loaded.

    Args:
        limits: max_failed and timeout_seconds, as `RewardSet` takes them.

    Raises:
        ConfigError: a wrong setting. RewardError: the reward fails its self-test.
    """
    if scorer.name == ORACLE and scorer.function is None:
        return Scorer(ORACLE, {}, ("task",), None)
    rewards = RewardSet([scorer], task=task, **(limits or {}))
    rewards.self_test(task.examples)
    settings = dict(scorer.settings)
    if scorer.function is None:
        entry = registry.rewards.entry(scorer.name)
        settings = {k: s.default for k, s in entry.settings.items()} | settings
        for name in ("model", "ref_model", "engine", "tokenizer"):
            settings[name] = _described(settings.get(name))
        settings = {k: v for k, v in settings.items() if v is not None or k in entry.settings}
    return Scorer(rewards.names[0], settings, tuple(gold_inputs_of(scorer)), rewards)


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
    if scorer is None:
        raise ConfigError(
            f"search {search!r} needs a scorer, which says what sample is best: one of "
            f"{', '.join(choices)} (such as scorer: {{name: reward_model, path: FOLDER}}), or "
            "scorer: oracle, the task's own verdict, which no deployed system has"
        )
    if scorer.weight != 1.0 or scorer.aggregation is not None:
        raise ConfigError(
            f"scorer: {scorer.name!r} stands alone, so that a weight or an aggregation changes "
            "nothing"
        )
    if scorer.name == ORACLE and scorer.function is None:
        if scorer.settings:
            raise ConfigError(
                "scorer: oracle is the task's own verdict and has no setting "
                f"{next(iter(scorer.settings))!r}"
            )
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
    if oracle and not gold:
        raise ConfigError(
            f"oracle: the scorer {scorer.name!r} reads no gold, so that it changes nothing; leave "
            "it out"
        )
