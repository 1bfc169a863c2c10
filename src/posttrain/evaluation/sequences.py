"""Sequences of trainings under several methods against forgetting, over seeds, as one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.errors import DataError
from posttrain.evaluation import continual as measures
from posttrain.evaluation.statistics import Difference, holm
from posttrain.files import write_text_whole

FILE = "sequences.json"
JOINT = "joint"
"""The method that trains on all stages at once, by which intransigence is measured."""

COMPARED = ("AP", "BWT")
"""The measures whose differences to the first method are tested."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """What several methods made of one sequence of stages.

    Attributes:
        model: its name. stages: their names, in order. seeds: of the runs.
        scores: accuracy [N + 1, N] of each seed, by the method's name with its settings.
        others: accuracy [N + 1] on further suites of each seed, by method and suite.
    """

    model: str
    stages: list[str]
    seeds: list[int]
    scores: dict[str, list[Any]]
    others: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)

    def measures(self) -> dict[str, dict[str, list[float]]]:
        """Each measure by seed, by method: AP, BWT, FWT, forgetting, and where a method is `joint`
        intransigence; general_ability_delta with further suites.
        """
        joint = next((n for n in self.scores if n.partition("(")[0] == JOINT), None)
        table: dict[str, dict[str, list[float]]] = {}
        for name, matrices in self.scores.items():
            row = table[name] = {"AP": [measures.average_performance(m) for m in matrices]}
            if len(self.stages) > 1:
                row["BWT"] = [measures.backward_transfer(m) for m in matrices]
                row["FWT"] = [measures.forward_transfer(m) for m in matrices]
                row["forgetting"] = [measures.forgetting_measure(m) for m in matrices]
            if joint is not None and name != joint:
                row["intransigence"] = [
                    measures.intransigence(m, measures.own_stage(best))
                    for m, best in zip(matrices, self.scores[joint], strict=True)
                ]
            suites = self.others.get(name, {})
            if suites:
                row["general_ability_delta"] = [
                    float(np.mean([rows[k][-1] - rows[k][0] for rows in suites.values()]))
                    for k in range(len(self.seeds))
                ]
        return table

    def table(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Means over seeds with Student's 95% interval; with one seed there is none."""
        return {
            name: {measure: _interval(values) for measure, values in row.items()}
            for name, row in self.measures().items()
        }

    def comparisons(self) -> list[dict[str, Any]]:
        """Differences of AP and BWT to the first method, paired over seeds, p-values by Holm."""
        table = self.measures()
        first, *rest = table
        pairs: list[tuple[str, str, Difference]] = []
        if len(self.seeds) < 2:
            return []
        for name in rest:
            for measure in COMPARED:
                if measure in table[name]:
                    d = measures.paired_over_seeds(table[first][measure], table[name][measure])
                    pairs.append((name, measure, d))
        adjusted = holm([d.p_value for _, _, d in pairs])
        return [
            {
                "a": first,
                "b": name,
                "measure": measure,
                "estimate": d.estimate,
                "low": d.low,
                "high": d.high,
                "p_value": p,
            }
            for (name, measure, d), p in zip(pairs, adjusted, strict=True)
        ]

    def mean_matrix(self, name: str) -> np.ndarray:
        """A method's scores [N + 1, N], the mean over seeds."""
        return np.mean(np.asarray(self.scores[name], dtype=np.float64), axis=0)

    def values(self) -> dict[str, Any]:
        """All of it, as sequences.json holds it."""
        scores = {name: np.asarray(m).tolist() for name, m in self.scores.items()}
        return {
            "model": self.model,
            "stages": self.stages,
            "seeds": self.seeds,
            "table": self.table(),
            "comparisons": self.comparisons(),
            "scores": scores,
            "others": self.others,
        }

    def __str__(self) -> str:
        table = self.table()
        columns = list(dict.fromkeys(m for row in table.values() for m in row))
        cells = {
            name: [shown(c, row[c]) if c in row else "" for c in columns]
            for name, row in table.items()
        }
        width = max(len(name) for name in ["method", *cells])
        widths = [
            max(len(c), *(len(row[i]) for row in cells.values())) for i, c in enumerate(columns)
        ]
        number = len(self.seeds)
        lines = [
            f"{self.model}: {' > '.join(self.stages)}; {number} seed{'s' * (number != 1)}",
            "",
            "  ".join(["method".ljust(width), *(c.rjust(w) for c, w in zip(columns, widths))]),
        ]
        for name, row in cells.items():
            lines.append("  ".join([name.ljust(width), *(x.rjust(w) for x, w in zip(row, widths))]))
        for c in self.comparisons():
            lines.append(
                f"{c['b']} - {c['a']}, {c['measure']}: {c['estimate']:+.1%} "
                f"({c['low']:+.1%} to {c['high']:+.1%}), p = {c['p_value']:.2g} (Holm)"
            )
        return "\n".join(lines)

    def save(self, folder: str | Path) -> Path:
        """Write sequences.json and sequences.txt, each whole or not at all."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        write_text_whole(place / FILE, json.dumps(self.values(), indent=1))
        write_text_whole(place / "sequences.txt", f"{self}\n")
        return place / FILE


def read_sequences(file: str | Path) -> Sequences:
    """What `Sequences.save` wrote. file: sequences.json or its folder.

    Raises:
        DataError: there is no such file.
    """
    place = Path(file)
    place = place / FILE if place.is_dir() else place
    if not place.is_file():
        raise DataError(f"{place}: there is no such file; it is written by a run of `continual`")
    values: Mapping[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    names = ("model", "stages", "seeds", "scores", "others")
    return Sequences(**{name: values[name] for name in names})


def _interval(values: Sequence[float]) -> dict[str, float | None]:
    if len(values) < 2:
        return {"estimate": values[0], "low": None, "high": None}
    interval = measures.over_seeds(values)
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


def shown(measure: str, cell: Mapping[str, float | None]) -> str:
    """A cell of the table: a level as it is, a change with its sign."""
    sign = "" if measure == "AP" else "+"
    text = f"{cell['estimate']:{sign}.1%}"
    if cell["low"] is None:
        return text
    return f"{text} ({cell['low']:{sign}.1%} to {cell['high']:{sign}.1%})"
