"""A search strategy as a value: a registered or own search with its settings and its scorer."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from posttrain import registry
from posttrain.config import Component, ComponentLike
from posttrain.errors import ConfigError, nearest
from posttrain.search.base import Selection
from posttrain.search.scorer import ORACLE, Scorer, check_scorer, gold_of, open_scorer
from posttrain.types import Task


@dataclass(frozen=True, slots=True)
class Strategy:
    """A search strategy with all its settings, and its scorer where it asks for a score.

    It holds no weights and no task: `open` prepares its scorer for a task.

    Attributes:
        inputs: what the search asks for (`posttrain.inputs.SEARCH_INPUTS`).
        function: a search that is given itself and not looked up by its name.
        scorer_component: a reward, or "oracle"; None where there is none (yet).
        allows_gold: whether a scorer that reads the gold is permitted.
        scorer: the scorer, ready to score (see `open`).
    """

    name: str
    settings: dict[str, Any]
    inputs: tuple[str, ...]
    function: Callable[..., Any] | None = None
    scorer_component: Component | None = None
    allows_gold: bool = False
    scorer: Scorer | None = field(default=None, compare=False)

    @property
    def needs_score(self) -> bool:
        """Whether the search asks for a score."""
        return "score" in self.inputs

    @property
    def gold(self) -> tuple[str, ...]:
        """What the scorer reads that a deployed system does not have."""
        return () if self.scorer_component is None else gold_of(self.scorer_component)

    @property
    def oracle(self) -> bool:
        """Whether the gold chooses."""
        return bool(self.gold)

    def with_scorer(self, scorer: ComponentLike | None, oracle: bool = False) -> Strategy:
        """The strategy with a scorer, checked.

        Args:
            scorer: None keeps the one that the strategy has.
            oracle: permits a scorer that reads the gold. "oracle", the task's own verdict, needs no
                permission: its name says so.

        Raises:
            ConfigError: a scorer that is missing, superfluous, or reads the gold without
                permission.
        """
        allowed = oracle or self.allows_gold
        component = self.scorer_component if scorer is None else Component.of(scorer)
        if self.needs_score:
            check_scorer(self.name, component, allowed)
        elif component is not None or allowed:
            names = [n for n, e in registry.searches.entries().items() if "score" in e.inputs]
            raise ConfigError(
                f"{'oracle' if component is None else 'scorer'}: search {self.name!r} does not ask "
                "for a score, so that it would change nothing; leave it out, or take one of "
                f"{', '.join(names)}"
            )
        return replace(self, scorer_component=component, allows_gold=allowed)

    def open(self, task: Task, limits: Mapping[str, float] | None = None) -> Strategy:
        """The strategy with its scorer ready for a task; `close` releases it.

        Args:
            limits: max_failed and timeout_seconds of the scorer, as `RewardSet` takes them.

        Raises:
            ConfigError: the scorer is missing or wrong. RewardError: it fails its self-test.
        """
        if not self.needs_score:
            return self
        checked = self.with_scorer(None)
        assert checked.scorer_component is not None
        return replace(checked, scorer=open_scorer(checked.scorer_component, task, limits))

    def close(self) -> None:
        """Release what the scorer holds."""
        if self.scorer is not None:
            self.scorer.close()

    async def run(self, inputs: Mapping[str, Any]) -> Selection:
        """What the strategy chooses for one prompt.

        inputs: by name, see `posttrain.inputs.SEARCH_INPUTS`.

        Raises:
            ConfigError: the search is no coroutine function.
        """
        function = self.function or registry.searches.get(self.name)
        selection = function(*(inputs[name] for name in self.inputs), **self.settings)
        if not inspect.isawaitable(selection):
            raise ConfigError(
                f"search {self.name!r} returned {type(selection).__name__} at once; a search is a "
                "coroutine about one prompt: async def search(prompt, ask, extract, ...), with "
                "await before its calls of ask"
            )
        chosen: Selection = await selection
        return chosen

    def __str__(self) -> str:
        """In words: "majority vote of 8", "best of 8 by reward_model", "best of 8 (oracle)"."""
        words = self.name.removesuffix("_n").replace("_", " ")
        number = self.settings.get("num_samples", self.settings.get("num_beams"))
        if number is not None:
            words += f" {number}" if words.endswith(" of") else f" of {number}"
        component = self.scorer_component
        if component is not None and component.name != ORACLE:
            words += f" by {component.name}"
        return words + " (oracle)" * self.oracle

    def warning(self) -> str:
        """What is printed of an oracle; empty for other strategies."""
        component = self.scorer_component
        if component is None or not self.oracle:
            return ""
        return oracle_text(component.name, self.gold, self.settings)


def oracle_text(scorer: str, gold: tuple[str, ...], settings: Mapping[str, Any]) -> str:
    """What is printed of an evaluation whose search chose by the gold."""
    number = settings.get("num_samples")
    among = f"{number} samples" if number is not None else "the candidates"
    if scorer == ORACLE:
        who = "the task's own verdict"
    elif gold:
        who = f"the reward {scorer}, which reads {', '.join(gold)},"
    else:
        who = f"the reward {scorer}, which reads the gold,"
    return f"oracle: {who} chose among {among}; no deployed system can reach this"


def strategy(
    search: ComponentLike | Strategy,
    scorer: ComponentLike | None = None,
    oracle: bool = False,
    **settings: Any,
) -> Strategy:
    """A search strategy from its name or its function, with its settings.

        strategy("majority_vote", num_samples=8)
        strategy("best_of_n", scorer="length", num_samples=4)
        strategy(my_search, num_samples=4)

    Args:
        search: a name, a function, {name: ..., setting: value}, or a strategy to change.
        scorer: a reward, for a search that asks for a score; it may be set later (`with_scorer`).
        oracle: permits a scorer that reads the gold, and reports it.
        settings: keyword-only parameters of the search.

    Raises:
        ConfigError: no such search or setting, a setting out of range, a wrong scorer.
    """
    if isinstance(search, Strategy):
        value = search
        if settings:
            item = Component(search.name, search.settings | settings, function=search.function)
            value = replace(search, settings=_settings(item, registry.searches.entry_of(item)))
    else:
        item = Component.of(search)
        item = replace(item, settings=item.settings | settings)
        entry = registry.searches.entry_of(item)
        value = Strategy(item.name, _settings(item, entry), entry.inputs, item.function)
    return value.with_scorer(scorer, oracle) if scorer is not None or oracle else value


def _settings(item: Component, entry: registry.Entry) -> dict[str, Any]:
    """All settings of a search, defaults among them, checked.

    Whole numbers num_* and max_* are at least 1; a search declares those of which 0 means none:
    @searches.register(zero=("num_waits",)).
    """
    for key in item.settings:
        if key not in entry.settings:
            raise ConfigError(
                f"search: search strategy {item.name!r} has no setting {key!r}: "
                f"{nearest(key, entry.settings)}"
            )
    checked = dict(item.settings)
    if item.function is None:
        checked = registry.searches.check(item.name, item.settings, "search")
    settings = {k: s.default for k, s in entry.settings.items()} | checked
    for key, value in settings.items():
        if value is registry.REQUIRED:
            raise ConfigError(f"search: search strategy {item.name!r} needs the setting {key!r}")
        least = 0 if key in entry.declared.get("zero", ()) else 1
        if key.startswith(("num_", "max_")) and isinstance(value, int) and value < least:
            raise ConfigError(f"search.{key}: {value} must be at least {least}")
    return settings


def bound(search: str | Callable[..., Any]) -> Callable[..., Any]:
    """The public form of a search: with settings alone it makes a strategy, else it searches.

        majority_vote = bound("majority_vote")
        majority_vote(num_samples=8)                                   # a Strategy
        await majority_vote(prompt, ask, extract, num_samples=8)       # runs it: a Selection

    A search that asks for a score also takes `scorer` and `oracle` (see `strategy`).

    Raises:
        ConfigError: no such search.
    """
    item = Component.of(search)
    entry = registry.searches.entry_of(item)

    def make(*inputs: Any, **settings: Any) -> Any:
        if not inputs and not settings.keys() & set(entry.inputs):
            return strategy(item, **settings)
        function = item.function or registry.searches.get(item.name)
        return function(*inputs, **settings)

    if item.function is not None:
        functools.update_wrapper(make, item.function)
    make.__name__ = make.__qualname__ = item.name
    make.__doc__ = entry.doc
    parameters = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in entry.inputs
    ]
    for name, setting in entry.settings.items():
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=setting.default,
                annotation=setting.annotation,
            )
        )
    if "score" in entry.inputs:
        for name, default in (("scorer", None), ("oracle", False)):
            parameters.append(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            )
    make.__dict__["__signature__"] = inspect.Signature(parameters)
    return make
