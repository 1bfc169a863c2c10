"""Terms of an objective: a loss with its settings, its average, and the targets it is for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from posttrain import registry
from posttrain.config import Component
from posttrain.data.forest import Batch
from posttrain.data.tree import absent
from posttrain.errors import ConfigError, DataError, nearest
from posttrain.losses.reduce import Aggregation
from posttrain.models.vocabulary import DISTRIBUTIONS
from posttrain.training.selection import selected

Per = Literal["token", "sequence", "pair", "group", "batch"]


@dataclass(frozen=True, slots=True)
class Term:
    """One loss of an objective, bound to its settings.

    Attributes:
        function, inputs: the loss, and the names of its positional parameters.
        per: what it has one value for.
        weight: factor in the sum. aggregation: the average, where `per` is "token".
        on: the targets that it is averaged on: "all", "sampled", or the name of a stream.
        label: its name in metrics; with `on` where two terms have the same loss.
    """

    name: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    per: Per
    weight: float
    aggregation: Aggregation
    on: str
    label: str = ""

    @property
    def by_trees(self) -> bool:
        """Whether it needs all sequences of a tree: both of a pair, all of a group."""
        return self.per in ("pair", "group")


def term_of(item: Component, default: Aggregation) -> Term:
    """The component as a term. default: the average of a loss per token that names none.

    Raises:
        ConfigError: an aggregation where the loss is not per token, or settings that it refuses.
    """
    entry = registry.losses.entry_of(item)
    function = registry.losses.bind_of(item)
    aggregation: Any = item.aggregation or default
    per: Per = entry.per
    if per != "token" and item.aggregation is not None:
        raise ConfigError(
            f"losses: {item.name!r} has one value a {per}, whose mean is taken; leave its "
            "aggregation out"
        )
    if entry.settings or per == "pair":
        _try_settings(item.name, function, entry.inputs)
    on = item.on or ("given" if "given" in entry.inputs else "sampled")
    return Term(item.name, function, entry.inputs, per, item.weight, aggregation, on)


def _try_settings(name: str, function: Callable[..., Any], inputs: tuple[str, ...]) -> None:
    """Call a loss with no numbers, so that it refuses settings that cannot be before weights
    load.
    """
    indices = ("target", "sequence", "group", "step")
    inputs_by_name: dict[str, Any] = {i: torch.zeros(0, dtype=torch.long) for i in indices}
    inputs_by_name |= {"num_sequences": 0, **{d: torch.zeros(0, 2) for d in DISTRIBUTIONS}}
    try:
        function(*(inputs_by_name.get(i, torch.zeros(0)) for i in inputs))
    except ValueError as error:
        raise ConfigError(f"losses: {name!r}: {error}") from error
    except (
        Exception
    ):  # a user's loss may ask for at least one number; if it is wrong, it fails in training
        return


def labelled(terms: list[Term]) -> list[Term]:
    """The terms with names that metrics can go by."""
    times = Counter(term.name for term in terms)
    return [replace(t, label=t.name if times[t.name] == 1 else f"{t.name}/{t.on}") for t in terms]


def check_marks(terms: Sequence[Term], marks: Collection[str]) -> None:
    """Every `on` is a mark, and every mark has a term that learns its rows.

    Raises:
        ConfigError: names the loss or the mark, and the way out.
    """
    names = {"all", "sampled", *marks}
    for term in terms:
        if term.on not in names:
            raise ConfigError(
                f"losses: {term.name!r} is averaged on {term.on!r}, which marks no rows of "
                f"this method: {nearest(term.on, names)}"
            )
    for mark in sorted(marks):
        # Rows that are marked otherwise than `given` may well be sampled ones.
        learnt = {mark, "all", "sampled"} - ({"sampled"} if mark == "given" else set())
        if not any(term.on in learnt for term in terms):
            raise ConfigError(
                f"losses: no term learns the rows marked {mark!r}; add one, such as "
                f"{{name: nll, on: {mark}}}"
            )


def check_rows(terms: Sequence[Term], batch: Batch, num_roles: int) -> None:
    """Refuse rows that lack what a term reads of them, where other rows of the batch have it.

    What no row of the batch has is refused when the loss is called, or comes from the model.

    Args:
        num_roles: sequences or traces of a tree that is a pair.
    Raises:
        DataError: names the loss, the row and the stream.
    """
    trees = (*batch.trees, *batch.idle)
    streams = {name for tree in trees for name in tree.streams if math.isnan(absent(name))}
    for tree in trees:
        lacking = {name for s in tree.sequences for name in streams - s.streams.keys()}
        for term in terms:
            missing = lacking.intersection(term.inputs)
            unpaired = term.per == "pair" and tree.num_traces != num_roles
            if not (missing or unpaired) or not selected(term.on, tree).any():
                continue
            reason = f"has no {min(missing)!r}" if missing else "is not one of a pair"
            raise DataError(
                f"losses: {term.name!r} is averaged on {term.on!r}, but row {tree.rows[0]!r} "
                f"{reason}; mark the rows that the loss is for by a stream, and name that: "
                f"{{name: {term.name}, on: STREAM}}"
            )
