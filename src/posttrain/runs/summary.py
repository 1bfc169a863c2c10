"""The table of a pipeline's stages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from posttrain.errors import DataError
from posttrain.evaluation.comparison import compare
from posttrain.evaluation.outcomes import Evaluation, read_evaluation
from posttrain.files import write_text_whole
from posttrain.runs.recipe_run import RecipeRun

SUMMARY = "summary.json"
"""What a pipeline leaves."""


def summarise(
    run: RecipeRun, stages: Mapping[str, RecipeRun], seconds: Mapping[str, float]
) -> None:
    """Write summary.json: a row for each stage that was evaluated, compared with the row above,
    paired.
    """
    rows: list[dict[str, Any]] = []
    above: Evaluation | None = None
    for name, stage in stages.items():
        if not (stage.folder / "evaluation.json").exists():
            continue
        evaluation = read_evaluation(stage.folder)
        metrics = evaluation.metrics()
        rows.append(
            {
                "stage": stage.recipe.title or name,
                "folder": name,
                "accuracy": metrics["accuracy"]["estimate"],
                "low": metrics["accuracy"]["low"],
                "high": metrics["accuracy"]["high"],
                "p_value": None if above is None else _p_value(above, evaluation),
                "pass@k": {
                    k.partition("@")[2]: v["estimate"]
                    for k, v in metrics.items()
                    if k.startswith("pass@")
                },
                "maj@k": {
                    k.partition("@")[2]: v["estimate"]
                    for k, v in metrics.items()
                    if k.startswith("maj@")
                },
                "mean_tokens": metrics["mean_tokens"],
                "seconds": seconds.get(name),
                "note": evaluation.strategy or "",
                "search": " ".join(evaluation.details()[:-1]).removeprefix("search "),
                "search_settings": evaluation.search_settings,
                "scorer": evaluation.scorer,
                "oracle": bool(evaluation.oracle),
                "problems": evaluation.problems,
            }
        )
        above = evaluation
    summary = {
        "title": run.recipe.title or "pipeline",
        "command": run.run_folder.command,
        "rows": rows,
    }
    write_text_whole(run.folder / SUMMARY, json.dumps(summary, indent=1))


def _p_value(a: Evaluation, b: Evaluation) -> float | None:
    """Paired p-value; None where two stages were measured on different questions."""
    try:
        return compare(a, b).p_value
    except DataError:
        return None
