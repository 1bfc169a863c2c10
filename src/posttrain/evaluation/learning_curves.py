"""Curves of active learning: score against labels and against cost, paired over seeds.

The area under a curve is its mean height over the labels, by the trapezoid rule:

    AUC = sum_i (x_{i+1} - x_i) (y_i + y_{i+1}) / 2 / (x_R - x_0)

Two selectors with the same seeds share their first rows, their held-out questions and the seeds of
training, so that their areas are paired by seed (Student's interval, Holm's p-values).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.errors import DataError
from posttrain.evaluation.statistics import Difference, Interval, holm, paired_t, t_interval
from posttrain.files import write_text_whole
from posttrain.report.learning_curves import Line, learning_curves_svg

FILE = "active.json"
BASELINES = ("random", "random_pair")


@dataclass(frozen=True, slots=True)
class Curve:
    """One selector with one seed.

    Attributes:
        selector: its name with settings. seed: of the run.
        num_labels: labels after each round, from the first on. scores: mean over the held-out
            questions, from 0 to 1.
        money, tokens, minutes: spent up to each round.
        annotation: share of labels that equal the gold, None where there is no gold.
        reason: why the run ended.
    """

    selector: str
    seed: int
    num_labels: Sequence[int]
    scores: Sequence[float]
    money: Sequence[float]
    tokens: Sequence[int]
    minutes: Sequence[float]
    annotation: float | None = None
    reason: str = ""

    @property
    def area(self) -> float:
        """Area under the curve against labels, divided by the labels; see the module."""
        return area_under(self.num_labels, self.scores)

    def labels_to(self, score: float) -> int | None:
        """Labels of the first round whose score is at least this; None where none is."""
        reached = [n for n, s in zip(self.num_labels, self.scores, strict=True) if s >= score]
        return reached[0] if reached else None


def area_under(x: Sequence[float], y: Sequence[float]) -> float:
    """The mean height of a curve by the trapezoid rule; of one point its height.

    >>> area_under([10, 20, 40], [0.5, 0.7, 0.7])
    0.6666666666666666
    """
    if len(x) < 2 or x[-1] == x[0]:
        return float(y[-1])
    steps = np.diff(np.asarray(x, dtype=np.float64))
    heights = np.asarray(y, dtype=np.float64)
    return float((steps * (heights[1:] + heights[:-1]) / 2).sum() / (x[-1] - x[0]))


@dataclass(frozen=True, slots=True)
class Compared:
    """A selector against the baseline.

    Attributes:
        selector: what is compared. area: difference of areas. last: of the last common round.
        p_value: of the areas, adjusted for the number of selectors (Holm).
    """

    selector: str
    area: Difference
    last: Difference
    p_value: float

    def __str__(self) -> str:
        return (
            f"{self.selector}: area {_signed(self.area)}, p {self.p_value:.3f}; at the end "
            f"{_signed(self.last)}"
        )


def _signed(d: Difference) -> str:
    bounds = f" [{d.low:+.3f}, {d.high:+.3f}]" if math.isfinite(d.low) else ""
    return f"{d.estimate:+.3f}{bounds}"


@dataclass(slots=True)
class Active:
    """The result of active learning. `print` shows a table and the comparisons with random.

    Attributes:
        title: what was learnt. labeller: who labelled, in words. curves: of each selector and seed.
        is_oracle: whether labels were the gold of the pool.
        notes: what else a reader should know.
        model: of the last run, where it is at hand.
    """

    title: str
    labeller: str
    curves: list[Curve]
    is_oracle: bool = False
    notes: list[str] = field(default_factory=list)
    model: Any = field(default=None, repr=False, compare=False)

    @property
    def selectors(self) -> list[str]:
        """Names of the selectors, in order."""
        return list(dict.fromkeys(curve.selector for curve in self.curves))

    def of(self, selector: str) -> list[Curve]:
        """The curves of a selector, by seed."""
        return sorted((c for c in self.curves if c.selector == selector), key=lambda c: c.seed)

    def area(self, selector: str) -> Interval:
        """Mean area over seeds."""
        return t_interval([curve.area for curve in self.of(selector)])

    def compare(self, baseline: str | None = None) -> list[Compared]:
        """Every other selector against the baseline, over the seeds that both have.

        Args:
            baseline: a selector; None is the random one, and [] is returned where there is none.
        """
        first = baseline or next((s for s in self.selectors if s in BASELINES), None)
        if first is None:
            return []
        others = [s for s in self.selectors if s != first]
        rows = [self._paired(first, other) for other in others]
        adjusted = holm([area.p_value if area.n > 1 else 1.0 for area, _ in rows])
        return [
            Compared(name, area, last, p)
            for name, (area, last), p in zip(others, rows, adjusted, strict=True)
        ]

    def _paired(self, first: str, other: str) -> tuple[Difference, Difference]:
        a = {curve.seed: curve for curve in self.of(first)}
        b = {curve.seed: curve for curve in self.of(other)}
        pairs = [_to_common(a[seed], b[seed]) for seed in a if seed in b]
        areas = paired_t([x.area for x, _ in pairs], [y.area for _, y in pairs])
        ends = paired_t([x.scores[-1] for x, _ in pairs], [y.scores[-1] for _, y in pairs])
        return areas, ends

    def __str__(self) -> str:
        oracle = "  (an oracle: labels are the pool's own gold)" if self.is_oracle else ""
        lines = [self.title, f"labels by {self.labeller}{oracle}", ""]
        width = max(len(name) for name in [*self.selectors, "selector"])
        head = "seeds  labels  last score  area under the curve  cost"
        lines.append(f"{'selector':<{width}}  {head}")
        for name in self.selectors:
            curves, area = self.of(name), self.area(name)
            last = t_interval([c.scores[-1] for c in curves]).estimate
            labels = round(float(np.mean([c.num_labels[-1] for c in curves])))
            lines.append(
                f"{name:<{width}}  {len(curves):>5}  {labels:>6}  {last:>10.1%}  "
                f"{_interval(area):>20}  {_cost(curves)}"
            )
        compared = self.compare()
        if compared:
            lines += ["", "against random, paired by seed:", *(f"  {c}" for c in compared)]
        reasons = dict.fromkeys(f"{c.selector}: {c.reason}" for c in self.curves if c.reason)
        return "\n".join([*lines, "", *reasons, *self.notes]).rstrip()

    def svg(self) -> str:
        """The curves with intervals, as a picture."""
        return learning_curves_svg(
            self.title, [_line(name, self.of(name)) for name in self.selectors]
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "title": self.title,
            "labeller": self.labeller,
            "is_oracle": self.is_oracle,
            "curves": [{**asdict(c), "area": c.area} for c in self.curves],
            "compared": [asdict(c) for c in self.compare()],
            "notes": self.notes,
        }

    def save(self, folder: str | Path) -> Path:
        """Write active.json, active.txt and active.svg into a folder."""
        place = Path(folder)
        write_text_whole(place / "active.txt", f"{self}\n")
        write_text_whole(place / "active.svg", self.svg())
        write_text_whole(place / FILE, json.dumps(_plain(self.to_json()), indent=1))
        return place / FILE


def read_active(path: str | Path) -> Active:
    """The result that `Active.save` wrote. path: the file or its folder.

    Raises:
        DataError: it is missing or broken.
    """
    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        curves = [
            Curve(**{k: v for k, v in item.items() if k != "area"}) for item in values["curves"]
        ]
        return Active(
            values["title"], values["labeller"], curves, values["is_oracle"], values["notes"]
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} holds no curves of active learning ({error})") from error


def _to_common(a: Curve, b: Curve) -> tuple[Curve, Curve]:
    """Two curves up to the last round that both have."""
    count = min(len(a.scores), len(b.scores))
    return _cut(a, count), _cut(b, count)


def _cut(curve: Curve, count: int) -> Curve:
    values: dict[str, Any] = {
        name: list(getattr(curve, name)[:count])
        for name in ("num_labels", "scores", "money", "tokens", "minutes")
    }
    return Curve(curve.selector, curve.seed, **values)


def _interval(interval: Interval) -> str:
    if not math.isfinite(interval.low):
        return f"{interval.estimate:.3f}"
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _cost(curves: Sequence[Curve]) -> str:
    units: Mapping[str, Sequence[float]] = {
        "money": [c.money[-1] for c in curves],
        "tokens": [c.tokens[-1] for c in curves],
        "minutes": [c.minutes[-1] for c in curves],
    }
    parts = [f"{float(np.mean(v)):,.4g} {name}" for name, v in units.items() if any(v)]
    return ", ".join(parts) or "-"


def _line(name: str, curves: Sequence[Curve]) -> Line:
    """Mean and interval at each number of labels that all seeds have."""
    count = min(len(curve.scores) for curve in curves)
    points = []
    for place in range(count):
        interval = t_interval([curve.scores[place] for curve in curves])
        labels = float(np.mean([curve.num_labels[place] for curve in curves]))
        points.append((labels, interval.estimate, interval.low, interval.high))
    return Line(name, points)


def _plain(value: Any) -> Any:
    """Numbers that JSON can hold: not finite becomes null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
