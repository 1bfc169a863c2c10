"""Metrics as (sum, count), reduced once at the end of a step.

Averaging averages of unequal parts is how trainers come to report wrong numbers, so no mean is
formed before the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Averages:
    """Running sums by name. Values may be numbers or zero-dimensional tensors, which are read
    only in `means`.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, float] = {}
        self._totals: dict[str, Any] = {}
        self._largest: dict[str, Any] = {}
        self._smallest: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, dict[str, float]]:
        """What another process gets: numbers in place of tensors."""
        return {
            slot: {name: float(value) for name, value in values.items()}
            for slot, values in self.__dict__.items()
        }

    def add(self, name: str, total: Any, count: float = 1.0) -> None:
        """Add a sum over `count` items."""
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts[name] = self._counts.get(name, 0.0) + count

    def total(self, name: str, value: Any) -> None:
        """Add to a quantity that is reported as a sum, such as shares of one loss."""
        self._totals[name] = self._totals[name] + value if name in self._totals else value

    def largest(self, name: str, value: Any) -> None:
        """Keep the maximum."""
        previous = self._largest.get(name)
        self._largest[name] = value if previous is None else max(float(previous), float(value))

    def smallest(self, name: str, value: Any) -> None:
        """Keep the minimum."""
        previous = self._smallest.get(name)
        self._smallest[name] = value if previous is None else min(float(previous), float(value))

    def update(self, values: Mapping[str, float]) -> None:
        """Add single observations."""
        for name, value in values.items():
            self.add(name, value)

    def settle(self) -> None:
        """The totals are whole: from here on each is a single observation, and their mean is
        reported.
        """
        totals, self._totals = self._totals, {}
        for name, value in totals.items():
            self.add(name, value)

    def clear_totals(self) -> None:
        """Leave out what is reported as a sum."""
        self._totals = {}

    def renamed(self, suffix: str) -> Averages:
        """The same with a suffix to every name but those of sums."""
        other = Averages()
        other._totals = self._totals
        for name in ("_sums", "_counts", "_largest", "_smallest"):
            setattr(other, name, {f"{k}{suffix}": v for k, v in getattr(self, name).items()})
        return other

    def merge(self, other: Averages) -> None:
        """Add another's sums and counts."""
        for name, total in other._sums.items():
            self.add(name, total, other._counts[name])
        for name, value in other._totals.items():
            self.total(name, value)
        for name, value in other._largest.items():
            self.largest(name, value)
        for name, value in other._smallest.items():
            self.smallest(name, value)

    def means(self) -> dict[str, float]:
        """Name -> sum / count, the total, the maximum or the minimum; NaN where the count is
        zero.
        """
        means = {
            k: float(v) / self._counts[k] if self._counts[k] else math.nan
            for k, v in self._sums.items()
        }
        others = (*self._totals.items(), *self._largest.items(), *self._smallest.items())
        return {**means, **{k: float(v) for k, v in others}}
