"""What forecasts and their evaluation give back: tables, files and plots."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.dynamics.forecaster import Cost
from posttrain.evaluation.statistics import Difference, Interval
from posttrain.files import write_text_whole
from posttrain.report.dynamics import Line, lines_svg

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SeriesForecast:
    """A continued series.

    Attributes:
        context: [T, D], what was read. paths: [num_paths, steps, D].
        low, high: [D], quantiles 5 % and 95 % of the first added value.
        cost: passes and tokens.
    """

    context: Numbers
    paths: Numbers
    low: Numbers
    high: Numbers
    cost: Cost

    def __str__(self) -> str:
        lines = []
        for step in range(self.paths.shape[1]):
            row = " ".join(f"{value:>12.5g}" for value in self.paths[:, step].mean(0))
            lines.append(f"{step + 1:>6} {row}")
        bounds = ", ".join(f"{a:.5g} to {b:.5g}" for a, b in zip(self.low, self.high, strict=True))
        return "\n".join([*lines, f"90 % interval of the first value: {bounds}"])

    def save(self, folder: str | Path) -> Path:
        """Write forecast.json and forecast.svg into a folder."""
        values = {
            "context": self.context.tolist(),
            "paths": self.paths.tolist(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "passes": self.cost.passes,
            "tokens": self.cost.tokens,
        }
        lines = []
        count = len(self.context)
        for column in range(self.context.shape[1]):
            past = [(float(t), float(v)) for t, v in enumerate(self.context[:, column])]
            mean = self.paths[:, :, column].mean(0)
            ahead = [past[-1], *((float(count + t), float(v)) for t, v in enumerate(mean))]
            lines += [Line(f"column {column}", past), Line("its forecast", ahead, dashed=True)]
        plot = lines_svg("forecast in context", "step", "value", lines)
        return _written(folder, "forecast", values, plot, str(self))


@dataclass(frozen=True, slots=True)
class LearnerScore:
    """What a learner's one-step forecasts are worth.

    Attributes:
        name: of the learner. error: mean squared error over the window's variance.
        difference: error minus that of the first learner, paired over windows; None for the first.
        ks: Kolmogorov-Smirnov distance of the quantiles from uniform ones. ece: of quantiles.
        levels, coverage: the reliability diagram.
        by_context: (values of the context, error), in powers of two.
        passes: forward passes of the model.
    """

    name: str
    error: Interval
    difference: Difference | None
    ks: float
    ece: float
    levels: list[float]
    coverage: list[float]
    by_context: list[tuple[float, float]]
    passes: int


@dataclass(frozen=True, slots=True)
class DynamicsEvaluation:
    """Learners and baselines on the same windows.

    Attributes:
        model: in words. window: steps of a context. first: the first forecast that counts.
        num_windows: independent units of the intervals. scores: one per learner.
    """

    model: str
    window: int
    first: int
    num_windows: int
    scores: list[LearnerScore]

    def score(self, name: str) -> LearnerScore:
        """That of a learner."""
        return next(score for score in self.scores if score.name == name)

    def __str__(self) -> str:
        lines = [
            f"{self.model}, {self.num_windows} windows of {self.window} steps, forecasts from step "
            f"{self.first + 2} on",
            f"{'learner':<10} {'error':>8} {'95 % interval':>18} {'KS':>6} {'ECE':>6} {'passes':>7}"
            "  against the first",
        ]
        for s in self.scores:
            d = s.difference
            against = "" if d is None else f"  {d.estimate:+.4f} [{d.low:+.4f}, {d.high:+.4f}]"
            interval = f"{s.error.low:.4f} to {s.error.high:.4f}"
            lines.append(
                f"{s.name:<10} {s.error.estimate:>8.4f} {interval:>18} {s.ks:>6.3f} {s.ece:>6.3f} "
                f"{s.passes:>7}{against}"
            )
        return "\n".join(lines)

    def svg(self) -> str:
        """The reliability diagram."""
        lines = [Line("uniform", [(0.0, 0.0), (1.0, 1.0)], dashed=True)]
        for s in self.scores:
            points = list(zip(s.levels, s.coverage, strict=True))
            lines.append(Line(f"{s.name}: KS {s.ks:.3f}", points))
        return lines_svg("reliability of one-step forecasts", "nominal", "observed share", lines)

    def context_svg(self) -> str:
        """The error against the values of the context."""
        lines = [Line(s.name, s.by_context) for s in self.scores if s.by_context]
        return lines_svg(
            "error of one-step forecasts", "values of the context", "error", lines, log_x=True
        )

    def save(self, folder: str | Path) -> Path:
        """Write dynamics.json, dynamics.txt, dynamics.svg and context.svg into a folder."""
        place = _written(folder, "dynamics", asdict(self), self.svg(), str(self))
        write_text_whole(place / "context.svg", self.context_svg())
        return place


@dataclass(frozen=True, slots=True)
class Calibration:
    """A temperature, and calibration on held-out windows before and after it.

    Attributes:
        temperature: distributions are raised to the power 1 / temperature.
        before, after: nll (nats per value), ks, ece, coverage. levels: of the coverage.
    """

    temperature: float
    before: dict[str, Any]
    after: dict[str, Any]
    levels: list[float]

    def __str__(self) -> str:
        lines = [f"temperature {self.temperature:.3f}", f"{'':<8} {'NLL':>8} {'KS':>7} {'ECE':>7}"]
        for name, row in (("before", self.before), ("after", self.after)):
            lines.append(f"{name:<8} {row['nll']:>8.4f} {row['ks']:>7.3f} {row['ece']:>7.3f}")
        return "\n".join(lines)

    def svg(self) -> str:
        """The reliability diagrams before and after."""
        lines = [Line("uniform", [(0.0, 0.0), (1.0, 1.0)], dashed=True)]
        for name, row in (("before", self.before), ("after", self.after)):
            lines.append(Line(name, list(zip(self.levels, row["coverage"], strict=True))))
        return lines_svg("reliability", "nominal", "observed share", lines)

    def save(self, folder: str | Path) -> Path:
        """Write calibration.json, calibration.txt and calibration.svg into a folder."""
        return _written(folder, "calibration", asdict(self), self.svg(), str(self))


def _written(folder: str | Path, name: str, values: dict[str, Any], plot: str, text: str) -> Path:
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    write_text_whole(place / f"{name}.json", json.dumps(values, indent=1))
    write_text_whole(place / f"{name}.svg", plot)
    write_text_whole(place / f"{name}.txt", f"{text}\n")
    return place
