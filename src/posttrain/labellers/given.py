"""Labels that are there or that a person gives: the pool's own gold, and a file to fill."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posttrain.data.row_files import read_file
from posttrain.errors import ConfigError, DataError
from posttrain.files import write_text_whole
from posttrain.labellers.base import Cost, Label, Labeller, Question, Row
from posttrain.registry import labellers

TO_LABEL = "to_label.jsonl"


class Oracle(Labeller):
    """The gold of the pool, at the price of the person that it stands for."""

    repeats = True
    is_oracle = True

    def __init__(self, cost: Cost, column: str | None, noise: float) -> None:
        self.cost, self.column, self.noise = cost, column, noise

    def check(self, question: Question) -> None:
        if self.noise and len(question.labels) < 2:
            raise ConfigError("oracle: noise replaces a class by another, and here are none")

    def label(self, rows: Sequence[Row], question: Question) -> list[Label | None]:
        """The gold of each row."""
        import numpy as np

        column = self.column or question.column
        answers: list[Label | None] = []
        for row in rows:
            if row.get(column) is None:
                raise DataError(
                    f"oracle: row {row['id']} has no {column!r}, which is its gold; name the "
                    "column that has it, or take another labeller"
                )
            value = row[column]
            draw = np.random.default_rng((question.seed, *row["id"].encode(), 17))
            if self.noise and draw.random() < self.noise:
                value = draw.choice([name for name in question.labels if name != str(value)])
                value = str(value)
            answers.append(Label(value, self.cost, source="oracle"))
        return answers


@labellers.register
def oracle(
    *,
    column: str | None = None,
    money_per_row: float = 0.0,
    minutes_per_row: float = 0.0,
    noise: float = 0.0,
) -> Labeller:
    """The gold label of the pool: a task's answer or verifier, or a benchmark. It is reported as
    an oracle.

    Args:
        column: of the pool that holds it; None is label, completion or better, by the use.
        money_per_row: what a person's label would cost. minutes_per_row: and take.
        noise: share of labels that are replaced by another class, drawn by seed and row.
    """
    if not 0 <= noise < 1:
        raise ConfigError(f"oracle: noise is {noise}; it is a share, from 0 to below 1")
    return Oracle(Cost(money_per_row, 0, minutes_per_row), column, noise)


class Person(Labeller):
    """A JSON-lines file that a person fills."""

    repeats = True

    def __init__(self, path: str | None, cost: Cost) -> None:
        self.path, self.cost = path, cost
        self._place: Path | None = None

    def check(self, question: Question) -> None:
        self._file(question)

    def label(self, rows: Sequence[Row], question: Question) -> list[Label | None]:
        """What the person has written; the other rows are added to the file."""
        file = self._file(question)
        answers = _answers(file, question)
        known = [answers.get(row["id"]) for row in rows]
        if None in known:
            self._export(file, rows, question)
        return [
            None if value is None else Label(value, self.cost, source="file") for value in known
        ]

    def waiting(self) -> str:
        return (
            f"fill the empty labels in {self._place} (one JSON object per line; label studio and "
            "argilla read and write it), then resume"
        )

    def _file(self, question: Question) -> Path:
        if self.path is None and question.folder is None:
            raise ConfigError(
                "labeller file: it needs output, the folder of the run, or a path of its own"
            )
        place = Path(self.path).expanduser() if self.path else question.folder / TO_LABEL  # type: ignore[operator]
        self._place = place
        return place

    def _export(self, file: Path, rows: Sequence[Row], question: Question) -> None:
        """Add the rows that the file lacks; what a person has written stays as it is."""
        lines = [*read_file(file)] if file.is_file() else []
        there = {str(line.get("id")) for line in lines}
        hidden = {question.column}
        for row in rows:
            if row["id"] not in there:
                shown = {k: v for k, v in row.items() if k not in hidden}
                lines.append({**shown, question.column: None})
        text = "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(file, text)


def _answers(file: Path, question: Question) -> dict[str, Any]:
    """Labels that a person has written, by the id of the row.

    Raises:
        DataError: a label is none of the classes.
    """
    answers: dict[str, Any] = {}
    for line in read_file(file) if file.is_file() else ():
        value = line.get(question.column)
        if value is None or value == "":
            continue
        if question.labels and str(value) not in question.labels:
            raise DataError(
                f"{file}: the label of {line.get('id')} is {value!r}; classes are "
                f"{', '.join(question.labels)}"
            )
        answers[str(line.get("id"))] = str(value) if question.labels else value
    return answers


@labellers.register
def file(
    *, path: str | None = None, money_per_row: float = 0.0, minutes_per_row: float = 0.0
) -> Labeller:
    """A person: rows without a label are written to to_label.jsonl, and read back when filled.

    The run stops when labels are missing and goes on with resume.

    Args:
        path: of the file; None is to_label.jsonl in the run's folder.
        money_per_row: what a label costs. minutes_per_row: how long it takes.
    """
    return Person(path, Cost(money_per_row, 0, minutes_per_row))
