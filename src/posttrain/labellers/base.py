"""What a labeller is asked, what it answers, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from posttrain import registry
from posttrain.component import Component, ComponentLike
from posttrain.errors import ConfigError

Row = dict[str, Any]

ORACLE = "oracle: labels are the gold of the pool"


@dataclass(frozen=True, slots=True)
class Cost:
    """What labels cost.

    Attributes:
        money: in the currency of the prices. tokens: read and written by models.
        minutes: of people.
    """

    money: float = 0.0
    tokens: int = 0
    minutes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.money + other.money, self.tokens + other.tokens, self.minutes + other.minutes
        )

    def __str__(self) -> str:
        parts = [f"{self.money:.2f} money"] if self.money else []
        parts += [f"{self.tokens:,} tokens"] if self.tokens else []
        parts += [f"{self.minutes:.1f} minutes"] if self.minutes else []
        return ", ".join(parts) or "nothing"


@dataclass(frozen=True, slots=True)
class Label:
    """An answer.

    Attributes:
        value: the class, the completion, or for a pair whether the first is better (0 or 1); None
            where the labeller has looked and gives none, so that the row is not learnt from.
        cost: of this answer. confidence: from 0 to 1; None where the labeller has none.
        source: who answered, such as "file" or "model".
    """

    value: Any
    cost: Cost = Cost()
    confidence: float | None = None
    source: str = ""

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "label": self.value,
            "cost": asdict(self.cost),
            "confidence": self.confidence,
            "source": self.source,
        }

    @classmethod
    def read(cls, record: dict[str, Any]) -> Label:
        """From what `record` gave."""
        return cls(record["label"], Cost(**record["cost"]), record["confidence"], record["source"])


Predict = Callable[[Sequence[Row]], tuple[list[str], list[float]]]
"""Rows -> the class that the present small model predicts, and its confidence."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a labeller is told beside the rows.

    Attributes:
        column: of the pool that holds gold, where there is any: label, completion or better.
        labels: names of the classes; () where a label is a text.
        labelled: rows that have a label, with it in `column`: demonstrations.
        round: from 0. seed: of what is sampled. folder: of the run; None where it is in memory.
        predict: the present small model; None where there is none.
        embed: rows -> vectors [P, D]; None where there are none.
    """

    column: str
    labels: tuple[str, ...] = ()
    labelled: Sequence[Row] = ()
    round: int = 0
    seed: int = 0
    folder: Path | None = None
    predict: Predict | None = None
    embed: Callable[[Sequence[Row]], Any] | None = None


class Labeller:
    """Gives labels. A subclass writes `label`.

    Attributes:
        repeats: whether the same question gets the same answer at no further cost, as from a file.
            A question to another labeller that was cut off before its answer was recorded is
            never asked again: it may have been paid for.
        is_oracle: whether it reads the gold of the pool.
    """

    repeats = False
    is_oracle = False

    def label(self, rows: Sequence[Row], question: Question) -> list[Label | None]:
        """An answer for each row; None where there is none yet (a person has to give it)."""
        raise NotImplementedError

    def check(self, question: Question) -> None:
        """Refuse what cannot work, before any weights are loaded."""

    def waiting(self) -> str:
        """What a person has to do, where `label` gave None."""
        return "labels are missing"


@dataclass(slots=True)
class Called(Labeller):
    """A function of rows as a labeller: it returns a value or a `Label` for each.

    Attributes:
        function: rows -> values. cost: of each answer. repeats: as of `Labeller`.
    """

    function: Callable[[Sequence[Row]], Sequence[Any]]
    cost: Cost = field(default_factory=Cost)
    repeats: bool = False

    def label(self, rows: Sequence[Row], question: Question) -> list[Label | None]:
        """What the function returns for each row."""
        answers = list(self.function(rows))
        if len(answers) != len(rows):
            raise ConfigError(
                f"labeller: the function gave {len(answers)} answers for {len(rows)} rows; it must "
                "give one for each, None where there is none"
            )
        return [
            a if isinstance(a, Label) else Label(a, self.cost, source="function") for a in answers
        ]


LabellerLike = ComponentLike | Labeller
"""A labeller itself, the name of one, {name: ..., setting: value}, or a function of rows."""


def labeller_of(labeller: LabellerLike) -> tuple[Labeller, str]:
    """A labeller and its name with settings.

    Args:
        labeller: one itself, the name of one, {name: ..., setting: value}, or a function of rows.

    Raises:
        ConfigError: there is no such labeller, or a setting is wrong.
    """
    if isinstance(labeller, Labeller):
        return labeller, type(labeller).__name__
    item = Component.of(labeller)
    if item.function is not None and item.name not in registry.labellers.names():
        return Called(item.function), item.name
    made = registry.labellers.bind_of(item)()
    if not isinstance(made, Labeller):
        raise ConfigError(
            f"labeller {item.name!r} returned {type(made).__name__}; it must return a Labeller"
        )
    settings = ", ".join(f"{k}={v}" for k, v in item.settings.items())
    return made, f"{item.name}({settings})" if settings else item.name
