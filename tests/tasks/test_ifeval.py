"""The task ifeval."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.errors import DataError
from posttrain.tasks.ifeval import ifeval

DATA = Path(__file__).parents[3] / "shared" / "data" / "ifeval"
ROW = {
    "key": 7,
    "prompt": "Write, without commas.",
    "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
    "kwargs": [{}, {}],
}


def write(tmp_path: Path, row: dict[str, object]) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    return str(path)


def test_a_row_and_its_grades(tmp_path: Path) -> None:
    path = write(tmp_path, ROW)
    task = ifeval(path=path)
    (example,) = task.examples
    assert example.id == "ifeval-7" and example.prompt[0]["content"] == ROW["prompt"]  # type: ignore[index]
    assert task.score('"a b"', example) == 1 and task.score("a b", example) == 0
    assert ifeval(path=path, partial=True, chat=False).score("a b", example) == 0.5
    assert ifeval(path=path, loose=True).score('**"a b"**', example) == 1


def test_rows_that_are_wrong_are_refused_at_once(tmp_path: Path) -> None:
    for change in ({"prompt": 3}, {"kwargs": [{}]}, {"instruction_id_list": ["a:b", "c:d"]}):
        with pytest.raises(DataError):
            ifeval(path=write(tmp_path, {**ROW, **change}))


@pytest.mark.skipif(not DATA.exists(), reason="IFEval is not here")
def test_every_row_of_ifeval_is_read() -> None:
    task = ifeval(path=str(DATA))
    assert len(task.examples) == 541
    for text in ("", "A plain text. It has no commas.", "*a* [b]\n\n***\n\n- c\nP.S. d"):
        assert all(0 <= task.score(text, example) <= 1 for example in task.examples)
