"""Measured runs of recipes: the file that keeps them, and means with intervals over seeds.

A run is kept by recipe and seed. It holds the seconds of processor time, the machine, and what was
measured: `models`, the correct samples of each held-out problem, or `numbers`, plain metrics before
and after training. `with` names what the command line set in place of the recipe's own values.
"""

from __future__ import annotations

import json
import math
import statistics
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "recipes.json"
# Two-sided 95 % quantiles of Student's t by degrees of freedom.
STUDENT = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    6: 2.447,
    7: 2.365,
    8: 2.306,
    9: 2.262,
}
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

Counts = dict[str, Any]
"""Of one model: `samples` of each problem, and how many were correct, one digit a problem."""

Run = dict[str, Any]
"""One run: `cpu_seconds`, `machine`, `models` or `numbers`, `with`."""


def means_of(counts: Counts) -> list[float]:
    """Mean correctness of each problem."""
    return [DIGITS.index(c) / counts["samples"] for c in counts["correct"]]


def half_of_seeds(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of a mean over seeds: t s / sqrt(S). One seed: 0."""
    if len(values) < 2:
        return 0.0
    return STUDENT[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))


def interval_of(means: list[list[float]]) -> tuple[float, float]:
    """Mean accuracy and half the width of its 95 % interval.

        mean +- sqrt((t s_seeds / sqrt(S))^2 + (1.96 s_problems / sqrt(P))^2)

    with S seeds (t: Student's quantile of S - 1 degrees of freedom), P problems, and the standard
    deviations of the seeds' and of the problems' means. means [S][P].
    """
    by_seed = [statistics.fmean(row) for row in means]
    by_problem = [statistics.fmean(column) for column in zip(*means, strict=True)]
    of_problems = 1.96 * statistics.stdev(by_problem) / math.sqrt(len(by_problem))
    return statistics.fmean(by_seed), math.hypot(half_of_seeds(by_seed), of_problems)


def range_of(means: list[list[float]]) -> tuple[float, float]:
    """Where the accuracy of one more seed on these problems lies, with probability 95 %.

    mean +- t s sqrt(1 + 1/S), with the standard deviation s of S seeds.
    """
    by_seed = [statistics.fmean(row) for row in means]
    spread = statistics.stdev(by_seed) * math.sqrt(1 + 1 / len(means))
    half = STUDENT[len(means) - 1] * spread
    return statistics.fmean(by_seed) - half, statistics.fmean(by_seed) + half


def percent(share: float) -> str:
    """Such as "93.2 %"."""
    return f"{min(max(share, 0.0), 1.0):.1%}".replace("%", " %")


def machine_text(machine: dict[str, Any]) -> str:
    """The processor by which a run names its machine, of `machine.describe()`."""
    if not machine["family"]:
        return str(machine["processor"])
    return f"{machine['processor']} (family {machine['family']}, model {machine['model']})"


class Figures:
    """results/recipes.json: runs by recipe and seed, written after each."""

    def __init__(self, path: Path = RESULTS) -> None:
        self.path = path
        self.runs: dict[str, dict[str, Run]] = json.loads(path.read_text()) if path.exists() else {}
        self._lock = threading.Lock()

    def add(self, name: str, seed: int, run: Run) -> None:
        """Store one run."""
        with self._lock:
            self.runs.setdefault(name, {})[str(seed)] = run
            ordered = {k: dict(sorted(v.items())) for k, v in sorted(self.runs.items())}
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(ordered, indent=1) + "\n")
            partial.replace(self.path)

    def titles(self, name: str) -> list[str]:
        """Titles of the models that the runs of a name measured."""
        return list(self.first(name)["models"])

    def means(self, name: str, title: str = "") -> list[list[float]]:
        """Mean correctness of each problem [S][P], of the model of a title."""
        return [means_of(run["models"][title]) for run in self.runs[name].values()]

    def numbers(self, name: str, when: str, key: str) -> list[float]:
        """A metric of every seed. when: "before" or "after" training."""
        return [run["numbers"][when][key] for run in self.runs[name].values()]

    def first(self, name: str) -> Run:
        """The run of the lowest seed."""
        return next(iter(self.runs[name].values()))

    def cpu_seconds(self, name: str) -> float:
        """Median of the runs of a name."""
        return statistics.median(run["cpu_seconds"] for run in self.runs[name].values())

    def machines(self, name: str) -> list[str]:
        """The processors that the runs of a name took place on."""
        return sorted({run["machine"] for run in self.runs[name].values()})
