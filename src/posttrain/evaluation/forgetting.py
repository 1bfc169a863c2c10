"""What a training made a model forget: old abilities before and after, item by item.

An ability is a suite of problems that are graded, or of rows whose log-likelihood is measured. For
graded problems

    lost = sum_i [right before, wrong after],   gained = sum_i [wrong before, right after]

and McNemar's exact test says whether the two differ. For rows the change is that of the mean
negative log-likelihood per token, with a bootstrap over rows. p-values are adjusted for the number
of old suites (Holm 1979).

Beside them stands the KL divergence from the model of the start **on the prompts of the new
task**. It predicts forgetting without any old suite (RL's Razor, arXiv 2509.04259).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np

from posttrain.errors import DataError
from posttrain.evaluation.statistics import Difference, Interval, holm
from posttrain.files import write_text_whole

FILE = "forgetting.json"
Unit = Literal["accuracy", "nats"]


@dataclass(frozen=True, slots=True)
class Change:
    """One suite before and after.

    Attributes:
        name: of the suite. unit: "accuracy" (higher is better), or "nats" per token (lower is).
        before, after: what was measured. difference: after - before, paired over items.
        gained, lost: items that became right, or wrong; None in nats. More than one sample per
        problem counts by the majority of its verdicts.
    """

    name: str
    unit: Unit
    before: float
    after: float
    difference: Difference
    gained: int | None = None
    lost: int | None = None

    @property
    def loss(self) -> float:
        """How much worse the model is: the difference with the sign that makes worse positive."""
        return -self.difference.estimate if self.unit == "accuracy" else self.difference.estimate


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL divergences per token on the prompts of the new task, nats, with 95 % intervals over
    prompts.

    forward: KL(start || trained) where the start samples. reverse: KL(trained || start) where the
    trained model samples. Both are exact over the vocabulary at each sampled position.
    per_completion: the reverse one, summed over a completion.
    """

    forward: Interval
    reverse: Interval
    per_completion: Interval


@dataclass(slots=True)
class Forgetting:
    """The forgetting ledger of one training.

    Attributes:
        before, after: the models, in words. old: suites of old abilities. new: what was trained
        for, if it was measured. kl: divergence on the new task's prompts, if it was.
    """

    before: str
    after: str
    old: list[Change]
    new: list[Change] = field(default_factory=list)
    kl: Divergence | None = None

    def p_values(self) -> list[float]:
        """Of the old suites, adjusted for their number."""
        return holm([change.difference.p_value for change in self.old])

    def mean_loss(self, unit: Unit = "accuracy") -> float:
        """Mean over the old suites of one unit of how much worse the model is; NaN without any."""
        losses = [change.loss for change in self.old if change.unit == unit]
        return float(np.mean(losses)) if losses else math.nan

    def abilities(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Accuracy on the new task and mean accuracy on the old ones, before and after.

        Raises:
            DataError: there is no new task, or no graded old one.
        """
        graded = [change for change in self.old if change.unit == "accuracy"]
        if not self.new or not graded:
            raise DataError(
                f"{self.after}: the plot needs a new task and a graded old one; give --new and "
                "--old"
            )
        before, after = (
            (value(self.new[0]), float(np.mean([value(change) for change in graded])))
            for value in (attrgetter("before"), attrgetter("after"))
        )
        return before, after

    def lines(self) -> list[str]:
        """The two lines of a report: what was lost and gained, and the divergence."""
        worse: list[str] = []
        better: list[str] = []
        for change, p in zip(self.old, self.p_values(), strict=True):
            if p < 0.05:
                (worse if change.loss > 0 else better).append(_brief(change))
        number = f"{len(self.old)} old suite{'s' * (len(self.old) != 1)}"
        text = f"forgetting on {number}: "
        text += f"worse: {', '.join(worse)}" if worse else "none is significantly worse"
        text += f"; better: {', '.join(better)}" if better else ""
        if self.kl is None:
            return [text]
        low, high = self.kl.forward.low, self.kl.forward.high
        return [
            text,
            f"KL from the start on the new task: {self.kl.forward.estimate:.4f} nats per token "
            f"[{low:.4f}, {high:.4f}]",
        ]

    def __str__(self) -> str:
        lines = [f"before  {self.before}", f"after   {self.after}", ""]
        rows: list[tuple[str, ...]] = [
            ("suite", "before", "after", "difference [95 %]", "lost", "gained", "p")
        ]
        rows += [_row(change, change.difference.p_value, "new: ") for change in self.new]
        for change, p in zip(self.old, self.p_values(), strict=True):
            rows.append(_row(change, p))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for row in rows:
            cells = [row[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join(cells).rstrip())
        if len(self.old) > 1:
            lines.append(f"p-values of the {len(self.old)} old suites are adjusted (Holm)")
        return "\n".join([*lines, "", *self.lines()])

    def save(self, path: str | Path) -> Path:
        """Write the ledger as JSON, whole or not at all.

        Args:
            path: a file, or a folder for forgetting.json.
        """
        file = Path(path)
        file = file / FILE if file.is_dir() else file
        write_text_whole(file, json.dumps(self.to_json(), indent=1))
        return file

    def to_json(self) -> dict[str, Any]:
        """Plain values for forgetting.json; `p_values` and `lines` are there to be shown."""
        return {**asdict(self), "p_values": self.p_values(), "lines": self.lines()}


def read_forgetting(path: str | Path) -> Forgetting:
    """The ledger that `Forgetting.save` wrote.

    Args:
        path: the file, or the folder that holds it.
    Raises:
        DataError: it is missing or broken.
    """
    file = Path(path)
    file = file / FILE if file.is_dir() else file
    if not file.is_file():
        raise DataError(f"no ledger at {file}; make one with `posttrain forgetting RUN --old TASK`")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        kl = values["kl"]
        return Forgetting(
            values["before"],
            values["after"],
            [_change(item) for item in values["old"]],
            [_change(item) for item in values["new"]],
            None if kl is None else Divergence(**{k: Interval(**v) for k, v in kl.items()}),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is no ledger ({type(error).__name__}: {error})") from error


def _change(values: dict[str, Any]) -> Change:
    return Change(**{**values, "difference": Difference(**values["difference"])})


def _row(change: Change, p: float, prefix: str = "") -> tuple[str, ...]:
    d = change.difference
    if change.unit == "accuracy":
        values = [f"{change.before:.1%}", f"{change.after:.1%}"]
        difference = f"{d.estimate:+.1%} [{d.low:+.1%}, {d.high:+.1%}]"
    else:
        values = [f"{change.before:.3f}", f"{change.after:.3f}"]
        difference = f"{d.estimate:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
    counts = ["" if n is None else str(n) for n in (change.lost, change.gained)]
    name = prefix + change.name + ("" if change.unit == "accuracy" else " (nats)")
    return (name, *values, difference, *counts, f"{p:.2g}")


def _brief(change: Change) -> str:
    d = change.difference.estimate
    return (
        f"{change.name} {d:+.1%}" if change.unit == "accuracy" else f"{change.name} {d:+.3f} nats"
    )
