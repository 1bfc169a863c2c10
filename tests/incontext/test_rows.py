"""Labelled texts of tasks, files and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.errors import DataError
from posttrain.incontext.rows import Labelled, labelled_rows, labels_of
from posttrain.types import Example

WANTED = [("good", "1"), ("bad", "0")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "text\tlabel\ngood\t1\nbad\t0\n"),
        ("a.csv", "text,label\ngood,1\nbad,0\n"),
        ("a.jsonl", '{"text": "good", "label": 1}\n{"text": "bad", "label": 0}\n'),
    ],
)
def test_files_of_texts_and_labels(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    assert [(r.text, r.label) for r in labelled_rows(str(tmp_path / name))] == WANTED


def test_columns_examples_and_tasks() -> None:
    rows = [{"sentence": "good", "y": 1}, {"sentence": "bad", "y": 0}]
    named = labelled_rows(rows, text_column="sentence", label_column="y")
    assert [(r.text, r.label) for r in named] == WANTED
    examples = [Example(text, answer=label, id=text) for text, label in WANTED]
    assert labelled_rows(examples) == [Labelled(t, y, t) for t, y in WANTED]
    assert labelled_rows(named) == named
    task = labelled_rows({"name": "labelled_words", "num_examples": 6, "num_labels": 3})
    assert len(task) == 6 and len(labels_of(task)) == 3
    assert labels_of(named) == ["0", "1"]


def test_what_has_no_text_or_label_is_refused() -> None:
    with pytest.raises(DataError, match="'label'"):
        labelled_rows([{"text": "a", "labels": "b"}])
    with pytest.raises(DataError, match="answer"):
        labelled_rows([Example("a")])
    with pytest.raises(DataError):
        labels_of([Labelled("a", "x"), Labelled("b", "x")])
