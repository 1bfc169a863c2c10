"""The face of a learner."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError
from posttrain.labellers.base import Row


class Learner:
    """Learns from labelled rows. The base class says what the loop asks of one.

    A row has a column `id`, and its label in `column`.

    Attributes:
        column: of a label. labels: names of the classes; () where a label is a text.
        carries: inputs of selectors that it can compute.
        selects: "row", or "pair" where a label compares two completions of a row.
    """

    column = "label"
    labels: tuple[str, ...] = ()
    carries: frozenset[str] = frozenset()
    selects = "row"

    def check(self, pool: Sequence[Row]) -> None:
        """Refuse a pool that cannot be learnt from, before any weights are loaded."""

    def restart(self) -> None:
        """Forget what was learnt: the model is that of the start."""

    def train(self, rows: Sequence[Row], seed: int) -> None:
        """Learn from the rows alone, beginning at the model of the start."""
        raise NotImplementedError

    def inputs(
        self,
        names: Collection[str],
        candidates: Sequence[Row],
        labelled: Sequence[Row],
        seed: int,
    ) -> dict[str, Any]:
        """Inputs of selectors by name, of the model as it is (`posttrain.inputs`)."""
        raise NotImplementedError

    def outcomes(self) -> list[float]:
        """The score of each held-out question, from 0 to 1."""
        raise NotImplementedError

    def predict(self, rows: Sequence[Row]) -> tuple[list[str], list[float]] | None:
        """Predicted labels and confidences; None where the learner predicts none."""
        return None

    def embed(self, rows: Sequence[Row]) -> Any:
        """Vectors [P, D] of rows."""
        raise NotImplementedError

    def pair(self, row: Row, first: int, second: int) -> Row:
        """The question about two completions of a row; of learners of pairs."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write what was learnt last."""


def check_inputs(name: str, inputs: Collection[str], carries: Collection[str], use: str) -> None:
    """Refuse a selector that asks for what a learner does not compute.

    Raises:
        ConfigError: names the first missing input.
    """
    missing = [needed for needed in inputs if needed not in carries]
    if missing:
        raise ConfigError(
            f"selector {name!r} needs {missing[0]!r}, which use {use!r} does not compute; it "
            f"computes {', '.join(sorted(carries))}"
        )
