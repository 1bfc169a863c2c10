"""Labelled texts: the rows of classification, from a task, a file or memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from posttrain import registry
from posttrain.config import Component
from posttrain.data.rows import rows_of
from posttrain.errors import DataError, nearest
from posttrain.methods.objects import Rows, TaskLike, task_of
from posttrain.types import Example, Task, plain_text


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text with its label. id: of its row, for messages and reports."""

    text: str
    label: str
    id: str = ""


LabelledRows = Rows | TaskLike | Sequence[Labelled]
"""Labelled texts: a task, its name, a file, a folder, a hub id, or rows in memory."""


def labelled_rows(
    rows: LabelledRows, *, text_column: str = "text", label_column: str = "label"
) -> list[Labelled]:
    """Labelled texts of a task (prompt and answer) or of rows (columns text and label).

    >>> labelled_rows([{"text": "fine", "label": 1}])
    [Labelled(text='fine', label='1', id='0')]

    Args:
        rows: a `Task`, the name of one, a path, dictionaries, `Example`s or `Labelled`s.
        text_column, label_column: names of the columns of dictionaries and files.

    Raises:
        DataError: a row has no text or no label; names it.
    """
    if isinstance(rows, Task) or _names_task(rows):
        return [_of_example(e) for e in task_of(cast(Any, rows)).examples]
    if isinstance(rows, Sequence) and not isinstance(rows, str):
        if all(isinstance(row, Labelled) for row in rows):
            return list(cast(Sequence[Labelled], rows))
        if all(isinstance(row, Example) for row in rows):
            return [_of_example(e) for e in cast(Sequence[Example], rows)]
    labelled = []
    for number, row in enumerate(rows_of(cast(Any, rows))):
        name = str(row.get("id", number))
        for column in (text_column, label_column):
            if row.get(column) is None:
                raise DataError(
                    f"row {name} has no column {column!r}: {nearest(column, row)}; name the "
                    "columns with text_column and label_column"
                )
        labelled.append(Labelled(str(row[text_column]), str(row[label_column]), name))
    return labelled


def _names_task(rows: Any) -> bool:
    """Whether it is the name of a task, with or without settings, or a function that makes one."""
    if isinstance(rows, Mapping | Component):
        return True
    if isinstance(rows, str):
        return rows in registry.tasks.names() and not Path(rows).exists()
    return callable(rows) and not isinstance(rows, type)


def _of_example(example: Example) -> Labelled:
    if example.answer is None:
        raise DataError(
            f"row {example.id} of the task has no answer, which is the label of a text; give every "
            "row one"
        )
    return Labelled(plain_text(example.prompt), str(example.answer), example.id)


def labels_of(rows: Sequence[Labelled]) -> list[str]:
    """The labels of rows, each once, sorted.

    Raises:
        DataError: fewer than two.
    """
    labels = sorted({row.label for row in rows})
    if len(labels) < 2:
        raise DataError(
            f"the rows have {len(labels)} label(s): {labels}; there must be at least 2 to choose "
            "from"
        )
    return labels
