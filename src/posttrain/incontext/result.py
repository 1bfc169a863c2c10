"""What an evaluation in context gives: accuracy, calibration error, confusion, and each row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.evaluation.reward_model import calibration_error
from posttrain.evaluation.statistics import Interval, wilson_interval
from posttrain.files import write_text_whole

Numbers = NDArray[np.float64]
FILE = "in_context.json"
ROWS = "rows.jsonl"


@dataclass(frozen=True, slots=True)
class Answered:
    """One question.

    Attributes:
        id, text, label: of its row. prediction: the likeliest label; None where a server wrote
            none of the labels.
        probabilities: of all labels, in the result's order; they sum to 1.
        shots: ids of its demonstrations in their order, the last next to the question.
    """

    id: str
    text: str
    label: str
    prediction: str | None
    probabilities: tuple[float, ...]
    shots: tuple[str, ...] = ()


@dataclass(frozen=True)
class InContext:
    """A model's labels in context. `print` shows accuracy with its interval, ECE and confusion.

    Attributes:
        model: its name. labels: in the order of probabilities. rows: one per question.
        settings: how the prompts were made.
        num_pool: rows that demonstrations were chosen from.
        num_removed: rows of the pool that had a question's text, which were left out.
    """

    model: str
    labels: tuple[str, ...]
    rows: tuple[Answered, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    num_pool: int = 0
    num_removed: int = 0

    @property
    def correct(self) -> list[bool]:
        """Whether each prediction is the row's label; for paired tests."""
        return [row.prediction == row.label for row in self.rows]

    def accuracy(self) -> Interval:
        """Share of right predictions, with Wilson's interval."""
        return wilson_interval(sum(self.correct), len(self.rows))

    def majority(self) -> float:
        """The accuracy of always answering the most frequent label of these rows."""
        counts = [sum(row.label == label for row in self.rows) for label in self.labels]
        return max(counts) / max(len(self.rows), 1)

    def macro_recall(self) -> float:
        """Mean over the labels that occur of the share that was found."""
        counts = self.confusion
        sizes = counts.sum(axis=1)
        return float(np.mean(counts.diagonal()[sizes > 0] / sizes[sizes > 0]))

    def ece(self, num_bins: int = 10) -> float:
        """Expected calibration error of the predictions' probabilities (arXiv 1706.04599)."""
        confidence = [max(row.probabilities) for row in self.rows]
        return calibration_error(confidence, self.correct, num_bins)

    @property
    def unparsed(self) -> float:
        """Share of the questions to which a server wrote none of the labels."""
        return sum(row.prediction is None for row in self.rows) / max(len(self.rows), 1)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """Counts [labels, labels + 1]: rows by true label, columns by prediction, the last column
        for none of them.
        """
        places = {label: place for place, label in enumerate(self.labels)}
        counts = np.zeros((len(places), len(places) + 1), dtype=np.int64)
        for row in self.rows:
            predicted = len(places) if row.prediction is None else places[row.prediction]
            counts[places[row.label], predicted] += 1
        return counts

    def metrics(self) -> dict[str, Any]:
        """All metrics by name, as plain values."""
        return {
            "accuracy": asdict(self.accuracy()),
            "macro_recall": self.macro_recall(),
            "majority": self.majority(),
            "ece": self.ece(),
            "unparsed": self.unparsed,
        }

    def save(self, folder: str | Path) -> None:
        """Write in_context.json (settings, metrics, confusion) and rows.jsonl (each question)."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        whole = {
            "model": self.model,
            "labels": list(self.labels),
            "settings": self.settings,
            "num_pool": self.num_pool,
            "num_removed": self.num_removed,
            "metrics": self.metrics(),
            "confusion": self.confusion.tolist(),
        }
        write_text_whole(place / FILE, json.dumps(whole, indent=1) + "\n")
        lines = [json.dumps(asdict(row)) + "\n" for row in self.rows]
        write_text_whole(place / ROWS, "".join(lines))

    def __str__(self) -> str:
        accuracy = self.accuracy()
        shots = self.settings.get("num_shots", 0)
        lines = [
            f"{self.model}: accuracy {accuracy.estimate:.1%} [{accuracy.low:.1%}, "
            f"{accuracy.high:.1%}] on {accuracy.n} questions with {shots} demonstrations "
            f"(most frequent label {self.majority():.1%})",
            f"  ECE {self.ece():.3f}, macro recall {self.macro_recall():.1%}"
            + (f", no label {self.unparsed:.1%}" if self.unparsed else ""),
        ]
        return "\n".join([*lines, *confusion_lines(self.labels, self.confusion)])


def confusion_lines(labels: Sequence[str], counts: NDArray[np.int64]) -> list[str]:
    """The table of true labels (rows) and predictions (columns), of at most 12 labels."""
    if len(labels) > 12:
        return [f"  confusion of {len(labels)} labels: see {FILE}"]
    columns = [*labels, "(none)"] if counts[:, -1].any() else list(labels)
    names = [name if len(name) <= 10 else name[:9] + "…" for name in columns]
    width = max(5, *map(len, names))
    lines = ["  " + "true".ljust(width) + "  predicted"]
    lines.append("  " + " " * width + "".join(f"  {name:>{width}}" for name in names))
    for name, row in zip(names, counts.tolist()):
        lines.append(f"  {name:<{width}}" + "".join(f"  {n:>{width}}" for n in row[: len(columns)]))
    return lines
