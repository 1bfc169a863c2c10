"""Several stages, each starting from the model that the last one trained."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from posttrain.errors import DataError
from posttrain.evaluation.comparison import compare
from posttrain.evaluation.outcomes import Evaluation, read_evaluation
from posttrain.files import write_text_whole
from posttrain.registry import methods

SUMMARY = "summary.json"
"""What a pipeline leaves."""


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of a pipeline, as a recipe writes them."""

    recipes: tuple[dict[str, Any], ...]


@methods.register
def pipeline(*, stages: list[dict[str, Any]]) -> Stages:
    """Run stages in order and compare each with the one before on the same problems, paired.

    Each stage is a recipe with a name. It inherits seed, plugins, evaluation and the model of the
    stage before. The table of all stages goes to summary.json. In Python a pipeline is a `for`
    statement over `fit` and `evaluate`.

    Args:
        stages: recipes with a name each.
    """
    return Stages(tuple(stages))


class Stage(Protocol):
    """A stage: a training or a job in a folder of its own."""

    @property
    def folder(self) -> Path:
        """Where it writes."""
        ...

    @property
    def title(self) -> str:
        """For the table; "" takes its name."""
        ...

    def execute(self) -> Any:
        """Fit a model, or do a job with it."""
        ...


def run_stages(
    stages: Mapping[str, Stage],
    *,
    is_done: Callable[[str], bool],
    begin: Callable[[str], None],
    seconds: dict[str, float],
) -> None:
    """Run the stages that are not done, in order.

    Args:
        begin: is called with the name of a stage before it runs.
        seconds: takes how long each stage ran, by name.
    """
    for name, stage in stages.items():
        if is_done(name):
            continue
        begin(name)
        started = time.perf_counter()
        stage.execute()
        seconds[name] = time.perf_counter() - started


def write_summary(
    folder: Path,
    stages: Mapping[str, Stage],
    seconds: Mapping[str, float],
    *,
    title: str,
    command: str,
) -> None:
    """Write summary.json: a row for each stage that was evaluated, compared with the row above,
    paired.
    """
    rows = list(_compared(stages, seconds))
    summary = {"title": title or "pipeline", "command": command, "rows": rows}
    write_text_whole(folder / SUMMARY, json.dumps(summary, indent=1))


def _compared(
    stages: Mapping[str, Stage], seconds: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    """The rows of the table."""
    above: Evaluation | None = None
    for name, stage in stages.items():
        if not (stage.folder / "evaluation.json").exists():
            continue
        evaluation = read_evaluation(stage.folder)
        p_value = None if above is None else _p_value(above, evaluation)
        yield {
            "stage": stage.title or name,
            "folder": name,
            **_measured(evaluation, p_value),
            "seconds": seconds.get(name),
            "note": evaluation.strategy or "",
            "search": " ".join(evaluation.details()[:-1]).removeprefix("search "),
            "search_settings": evaluation.search_settings,
            "scorer": evaluation.scorer,
            "oracle": bool(evaluation.oracle),
            "problems": evaluation.problems,
        }
        above = evaluation


def _measured(evaluation: Evaluation, p_value: float | None) -> dict[str, Any]:
    """The numbers of a row."""
    metrics = evaluation.metrics()
    accuracy = metrics["accuracy"]
    return {
        "accuracy": accuracy["estimate"],
        "low": accuracy["low"],
        "high": accuracy["high"],
        "p_value": p_value,
        "pass@k": _by_k(metrics, "pass"),
        "maj@k": _by_k(metrics, "maj"),
        "mean_tokens": metrics["mean_tokens"],
    }


def _by_k(metrics: Mapping[str, Any], kind: str) -> dict[str, float]:
    """pass@k or maj@k by k."""
    pairs = [(name.partition("@"), value) for name, value in metrics.items()]
    return {k: value["estimate"] for (first, at, k), value in pairs if at and first == kind}


def _p_value(a: Evaluation, b: Evaluation) -> float | None:
    """Paired p-value; None where two stages were measured on different questions."""
    try:
        return compare(a, b).p_value
    except DataError:
        return None
