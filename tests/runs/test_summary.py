"""The table of a pipeline's stages, from evaluations on disk."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.evaluation.outcomes import Evaluation, Outcome
from posttrain.runs.summary import SUMMARY, summarise


def stage(folder: Path, correct: list[list[int]] | None, *, prompt: str = "p", **more: Any) -> Any:
    """A stage whose evaluation has these verdicts; None was not evaluated."""
    folder.mkdir()
    if correct is not None:
        outcomes = [
            Outcome(str(i), f"{prompt}{i}", "1", row, [str(x) for x in row], [3] * len(row))
            for i, row in enumerate(correct)
        ]
        Evaluation("t", {}, 0, len(correct[0]), outcomes, **more).save(folder)
    return SimpleNamespace(folder=folder, recipe=SimpleNamespace(title=""))


def table(tmp_path: Path, stages: dict[str, Any], title: str = "") -> dict[str, Any]:
    run: Any = SimpleNamespace(
        folder=tmp_path,
        recipe=SimpleNamespace(title=title),
        run_folder=SimpleNamespace(command="posttrain run r.yaml"),
    )
    summarise(run, stages, {"a": 1.5})
    return dict(json.loads((tmp_path / SUMMARY).read_text()))


def test_a_row_per_evaluated_stage_compared_with_the_one_above(tmp_path: Path) -> None:
    wrong, right = [[0, 0]] * 8, [[1, 1]] * 8
    stages = {
        "a": stage(tmp_path / "a", wrong),
        "train": stage(tmp_path / "train", None),
        "b": stage(tmp_path / "b", right),
    }
    summary = table(tmp_path, stages, "mine")
    first, second = summary["rows"]
    assert (summary["title"], summary["command"]) == ("mine", "posttrain run r.yaml")
    assert (first["stage"], first["accuracy"], first["p_value"]) == ("a", 0.0, None)
    assert (second["folder"], second["accuracy"]) == ("b", 1.0)
    assert second["p_value"] < 0.05
    assert second["low"] <= second["accuracy"] <= second["high"]
    assert (first["seconds"], second["seconds"]) == (1.5, None)
    assert first["pass@k"] == {"2": 0.0} and second["maj@k"] == {"2": 1.0}
    assert first["mean_tokens"] == 3.0


def test_stages_with_other_questions_have_no_p_value(tmp_path: Path) -> None:
    stages = {
        "a": stage(tmp_path / "a", [[1]] * 4),
        "b": stage(tmp_path / "b", [[0]] * 4, prompt="q"),
    }
    rows = table(tmp_path, stages)["rows"]
    assert rows[1]["p_value"] is None and rows[1]["accuracy"] == 0.0


@pytest.mark.parametrize("oracle", [False, True])
def test_a_search_is_named_with_its_scorer(tmp_path: Path, oracle: bool) -> None:
    more = {
        "search": "best_of_n",
        "search_settings": {"num_samples": 4},
        "strategy": "best of 4",
        "scorer": {"name": "oracle" if oracle else "length"},
        "oracle": oracle,
    }
    (row,) = table(tmp_path, {"a": stage(tmp_path / "a", [[1]] * 2, **more)})["rows"]
    assert row["note"] == "best of 4" and row["search_settings"] == {"num_samples": 4}
    assert row["search"].startswith("best_of_n (num_samples 4)") and row["oracle"] is oracle


def test_a_pipeline_without_evaluations_has_an_empty_table(tmp_path: Path) -> None:
    summary = table(tmp_path, {"a": stage(tmp_path / "a", None)})
    assert summary["rows"] == [] and summary["title"] == "pipeline"
