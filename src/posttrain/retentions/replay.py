"""Replay: what earlier stages learnt from, beside the stage's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from posttrain.averages import Averages
from posttrain.config import DataConfig
from posttrain.data.forest import Batch
from posttrain.errors import ConfigError
from posttrain.methods.objects import Rows, data_of, task_of
from posttrain.registry import retentions
from posttrain.retentions.base import Retention, Stage, with_settings, with_source
from posttrain.sources.rows import Source
from posttrain.training.objective import Objective
from posttrain.training.plan import Learner, Plan


class JoinedSource:
    """The batches of a source, each with trees of one of several others.

    Which other a step takes is a function of (seed, step). The joined batch is one update, whose
    averages are over all its targets.

    Args:
        own: of the stage. others: of earlier stages.
        every: whether each step takes from all others, not from one.
    """

    def __init__(
        self, own: Source, others: Sequence[Source], *, seed: int, every: bool = False
    ) -> None:
        self.own, self.others, self.seed, self.every = own, list(others), seed, every
        self._share = Averages()

    def batches(self, step: int) -> Iterator[Batch]:
        chosen = self.others
        if not self.every:
            place = np.random.default_rng((self.seed, step, 3)).integers(len(self.others))
            chosen = [self.others[int(place)]]
        drawn = [other.batches(step) for other in chosen]
        self._share = Averages()
        for batch in self.own.batches(step):
            added = [b for old in drawn if (b := next(old, None)) is not None]
            trees = [t for b in added for t in b.trees]
            idle = [t for b in added for t in b.idle]
            number = len(trees) + len(idle)
            self._share.add("replay/share", number, number + batch.num_trees)
            yield replace(batch, trees=[*batch.trees, *trees], idle=[*batch.idle, *idle])

    def updated(self, model: Any) -> None:
        for source in (self.own, *self.others):
            source.updated(model)

    def metrics(self) -> Averages:
        averages = self.own.metrics()
        averages.merge(self._share)
        return averages

    def state(self) -> dict[str, Any]:
        return {"own": self.own.state(), "others": [other.state() for other in self.others]}

    def load_state(self, state: dict[str, Any]) -> None:
        self.own.load_state(state["own"])
        for other, saved in zip(self.others, state["others"], strict=True):
            other.load_state(saved)

    def __getattr__(self, name: str) -> Any:
        # What a source of rollouts offers beside the protocol is the stage's own.
        if name.startswith("__") or name == "own":
            raise AttributeError(name)
        return getattr(self.own, name)


def joined(plan: Plan, others: Sequence[Plan], *, every: bool = False) -> Plan:
    """A plan that learns from other plans' sources too.

    Raises:
        ConfigError: a plan has another objective, whose rows cannot be averaged in one batch.
    """
    for other in others:
        if _terms(other.objective) != _terms(plan.objective):
            raise ConfigError(
                f"retention: the stage minimises {_terms(plan.objective)} and an earlier one "
                f"{_terms(other.objective)}; replay joins stages of one method and its losses"
            )

    def make(spec: Any, seed: int, steps: int, own: Source, learner: Learner) -> JoinedSource:
        works = [other.prepare(spec, seed, steps) for other in others]
        sources = [work.source(learner) for work in works]
        return JoinedSource(own, sources, seed=seed, every=every)

    return with_source(plan, make)


def _terms(objective: Objective) -> list[tuple[str, float, str]]:
    return [(term.name, term.weight, str(term.per)) for term in objective.terms]


def smaller(plan: Plan, batch_size: int, buffer_size: int | None = None) -> Plan:
    """A plan with smaller batches, and with few of its rows or problems.

    Args:
        buffer_size: rows or problems that are kept, the first ones; None = all.
    """
    changes: dict[str, Any] = {"batch_size": batch_size}
    if buffer_size is not None:
        if plan.settings.get("data") is not None:
            changes["data"] = _first_rows(plan.settings["data"], buffer_size)
        else:
            task = task_of(plan.settings["task"])
            changes["task"] = replace(task, examples=task.examples[:buffer_size])
    return with_settings(plan, **changes)


def _first_rows(data: Rows, number: int) -> DataConfig:
    config = data_of(data)
    limit = number if config.limit is None else min(number, config.limit)
    return replace(config, limit=limit)


def share_of(batch_size: int, share: float) -> int:
    """Rows that are replayed beside a batch, so that they are `share` of the whole; at least 1."""
    return max(1, round(batch_size * share / (1 - share)))


def check_share(name: str, share: float) -> None:
    """Refuse a share that is none.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ConfigError(f"{name}: share is {share}; it must be above 0 and below 1, .1 is usual")


class Replay(Retention):
    """Rows of earlier stages, or of general data, in every batch."""

    def __init__(self, share: float, buffer_size: int | None, rows: Rows | None) -> None:
        self.share, self.buffer_size, self.rows = share, buffer_size, rows

    def begin(self, stage: Stage) -> Plan:
        """The plan with replayed rows."""
        number = share_of(int(stage.plan.settings.get("batch_size", 16)), self.share)
        if self.rows is not None:
            general = with_settings(stage.plan, data=self.rows, batch_size=number)
            return joined(stage.plan, [general])
        if not stage.earlier:
            return stage.plan
        return joined(
            stage.plan, [smaller(plan, number, self.buffer_size) for plan in stage.earlier]
        )


@retentions.register
def naive() -> Retention:
    """Train one stage after the other, with nothing against forgetting: the baseline."""
    return Retention()


@retentions.register
def replay(
    *, share: float = 0.1, buffer_size: int | None = None, rows: str | None = None
) -> Retention:
    """Rows or prompts of earlier stages beside those of the stage (experience replay).

    share of the rows of every batch come from one earlier stage, drawn anew each step. Shares of
    .01 to .05 are usual (continual T0, arXiv 2205.12393). Of GRPO and PPO the earlier prompts are
    sampled anew by the present model.

    Args:
        share: of the rows of a batch that are replayed.
        buffer_size: rows or problems that are kept of each stage, the first ones; None = all.
        rows: a file of general data that is replayed in place of earlier stages' rows, from the
            first stage on.
    """
    check_share("replay", share)
    if buffer_size is not None and buffer_size < 1:
        raise ConfigError(f"replay: buffer_size is {buffer_size}; it must be at least 1")
    return Replay(share, buffer_size, rows)
