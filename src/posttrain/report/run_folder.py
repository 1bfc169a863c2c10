"""Reading a run's folder: whatever is there, also of a run that was cut off."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from posttrain.errors import DataError


@dataclass(slots=True)
class RunFolder:
    """A run: its recipe as text, metrics (a mapping per step), rollouts, evaluation and, of a pipeline, its stages."""

    path: Path
    recipe: str = ""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] | None = None
    summary: dict[str, Any] | None = None
    stages: list[RunFolder] = field(default_factory=list)

    @property
    def command(self) -> str:
        """The command line that made the run, which the recipe's first line holds."""
        first = self.recipe.split("\n", 1)[0]
        return first.removeprefix("#").strip() if first.startswith("#") else ""


def read_run(path: Path) -> RunFolder:
    """Read a run folder; files that are not there are left empty.

    Raises:
        DataError: the folder holds no run, or a file in it is broken (file and line are named).
    """
    if not path.is_dir():
        raise DataError(f"no run folder {path}")
    run = RunFolder(path)
    if (path / "recipe.yaml").is_file():
        run.recipe = (path / "recipe.yaml").read_text(encoding="utf-8")
    run.metrics = _lines(path / "metrics.jsonl")
    run.rollouts = _lines(path / "rollouts.jsonl")
    run.evaluation = _json(path / "evaluation.json")
    run.summary = _json(path / "summary.json")
    folders = [row["folder"] for row in run.summary["rows"]] if run.summary else []
    found = sorted(p.name for p in path.iterdir() if p.is_dir() and (p / "recipe.yaml").is_file())
    run.stages = [
        read_run(path / name) for name in [*folders, *(n for n in found if n not in folders)] if (path / name).is_dir()
    ]
    if not (run.recipe or run.metrics or run.evaluation or run.stages):
        raise DataError(f"{path} holds no run: none of recipe.yaml, metrics.jsonl, evaluation.json is there")
    return run


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return values
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break  # a killed run may leave its last line half written
            raise DataError(f"{path}:{number}: not valid JSON: {error}") from error
    return rows
