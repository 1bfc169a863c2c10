"""A search strategy with its settings, and the scorer that it chooses by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain import registry
from posttrain.config import Component
from posttrain.errors import ConfigError, nearest
from posttrain.rewards.base import RewardSet
from posttrain.search.base import Candidate, Selection
from posttrain.types import Example, Rollout, Sample, Task

ORACLE = "oracle"
"""The scorer that is the task's own verdict."""

# What a deployed system has of a problem; every other input of a reward is the gold, or a column of
# the data.
_DEPLOYABLE = frozenset(
    {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}
)


def gold_inputs(reward: str) -> list[str]:
    """Inputs of a reward that a deployed system lacks: answer, examples, task, columns of the data.

    They are read from the reward's signature. A reward that takes **kwargs is given every column,
    the answer among them.
    """
    entry = registry.rewards.entry(reward)
    return [name for name in entry.inputs if name not in _DEPLOYABLE] + [
        "**kwargs"
    ] * entry.accepts_columns


def gold_rewards(components: Sequence[Component]) -> list[str]:
    """Those of some rewards that read the gold."""
    return [c.name for c in components if gold_inputs(c.name)]


@dataclass(frozen=True, slots=True)
class Scorer:
    """What a search chooses by.

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

    def score(
        self,
        example: Example,
        candidates: Sequence[Candidate],
        verdict: Callable[[str, Example], float],
    ) -> list[float]:
        """A number per candidate; -inf where the reward gives none. verdict: the task's."""
        if self.rewards is None:
            return [verdict(c.text, example) for c in candidates]
        rollouts = [
            Rollout(
                Sample(list(c.ids), [], [], "stop" if c.ended else "length", c.stop_string), c.text
            )
            for c in candidates
        ]
        return self.rewards.score(example, rollouts)

    def close(self) -> None:
        """Release what the reward holds."""
        if self.rewards is not None:
            self.rewards.close()


@dataclass(frozen=True, slots=True)
class Strategy:
    """A search strategy with all its settings, and its scorer where it asks for a score."""

    name: str
    settings: dict[str, Any]
    scorer: Scorer | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the strategy asks for."""
        return registry.searches.entry(self.name).inputs

    @property
    def oracle(self) -> bool:
        """Whether the gold chooses."""
        return self.scorer is not None and self.scorer.oracle

    def select(self, inputs: dict[str, Any]) -> list[Selection]:
        """A selection for each prompt."""
        function = registry.searches.bind(self.name, self.settings)
        selections: list[Selection] = function(*(inputs[name] for name in self.inputs))
        return selections

    def __str__(self) -> str:
        """In words: "majority vote of 8", "best of 8 by reward_model", "best of 8 (oracle)"."""
        words = self.name.removesuffix("_n").replace("_", " ")
        number = self.settings.get("num_samples", self.settings.get("num_beams"))
        if number is not None:
            words += f" {number}" if words.endswith(" of") else f" of {number}"
        if self.scorer is not None and self.scorer.name != ORACLE:
            words += f" by {self.scorer.name}"
        return words + " (oracle)" * self.oracle

    def warning(self) -> str:
        """What is printed of an oracle; empty for other strategies."""
        if self.scorer is None or not self.scorer.oracle:
            return ""
        number = self.settings.get("num_samples")
        among = f"{number} samples" if number is not None else "the candidates"
        who = (
            "the task's own verdict"
            if self.scorer.rewards is None
            else (f"the reward {self.scorer.name}, which reads {', '.join(self.scorer.gold)},")
        )
        return f"oracle: {who} chose among {among}; no deployed system can reach this"


def make_strategy(
    search: Component | None,
    scorer: Component | None,
    *,
    oracle: bool,
    task: Task | None,
    limits: Mapping[str, float] | None = None,
) -> Strategy | None:
    """The strategy of a recipe, checked before weights are loaded.

    Args:
        oracle: allows a scorer that reads the gold. `scorer: oracle`, the task's own verdict, says
        so by its name. limits: of the scorer's time and failures, as `RewardSet` takes them.
    Raises:
        ConfigError: a scorer that is missing, superfluous, or reads the gold without leave.
    """
    if search is None:
        for key, value in (("scorer", scorer), ("oracle", oracle)):
            if value:
                raise ConfigError(
                    f"{key}: it guides a search; name one, such as search: {{name: best_of_n, "
                    f"num_samples: 8}}"
                )
        return None
    assert task is not None  # a search has one
    entry = registry.searches.entry(search.name)
    settings = {k: s.default for k, s in entry.settings.items()} | search.settings
    for key, value in settings.items():
        if key.startswith(("num_", "max_")) and isinstance(value, int) and value < 1:
            raise ConfigError(f"search.{key}: {value} must be at least 1")
    if "score" in entry.inputs:
        return Strategy(
            search.name, settings, _make_scorer(search, scorer, oracle, task, limits or {})
        )
    if scorer is not None or oracle:
        asking = [
            name for name, other in registry.searches.entries().items() if "score" in other.inputs
        ]
        raise ConfigError(
            f"{'oracle' if scorer is None else 'scorer'}: search {search.name!r} does not ask for "
            "a score, so that it would "
            f"change nothing; leave it out, or take one of {', '.join(asking)}"
        )
    return Strategy(search.name, settings)


def _make_scorer(
    search: Component,
    scorer: Component | None,
    oracle: bool,
    task: Task,
    limits: Mapping[str, float],
) -> Scorer:
    choices = [name for name in registry.rewards.names() if not gold_inputs(name)]
    if scorer is None:
        raise ConfigError(
            f"search {search.name!r} needs a scorer, which says what sample is best: one of "
            f"{', '.join(choices)} (such as "
            "scorer: {name: reward_model, path: FOLDER}), or scorer: oracle, the task's own "
            "verdict, which no deployed system "
            "has"
        )
    if scorer.weight != 1.0 or scorer.aggregation is not None:
        raise ConfigError(
            f"scorer: {scorer.name!r} stands alone, so that a weight or an aggregation changes "
            "nothing"
        )
    if scorer.name == ORACLE:
        if scorer.settings:
            raise ConfigError(
                "scorer: oracle is the task's own verdict and has no setting "
                f"{next(iter(scorer.settings))!r}"
            )
        return Scorer(ORACLE, {}, ("task",), None)
    if scorer.name not in registry.rewards.names():
        raise ConfigError(
            f"scorer: unknown reward {scorer.name!r}: {nearest(scorer.name, [*choices, ORACLE])}"
        )
    gold = gold_inputs(scorer.name)
    if gold and not oracle:
        raise ConfigError(
            f"scorer: the reward {scorer.name!r} reads {', '.join(gold)}, which a deployed system "
            "does not have, so that the "
            f"search would be an oracle. Take one of {', '.join(choices)}, or set oracle: true, "
            "which allows and reports it"
        )
    if oracle and not gold:
        raise ConfigError(
            f"oracle: the scorer {scorer.name!r} reads no gold, so that it changes nothing; leave "
            "it out"
        )
    rewards = RewardSet([(scorer.name, 1.0, scorer.settings)], task=task, **limits)
    rewards.self_test(task.examples)
    entry = registry.rewards.entry(scorer.name)
    settings = {k: s.default for k, s in entry.settings.items()} | scorer.settings
    return Scorer(scorer.name, settings, tuple(gold), rewards)
