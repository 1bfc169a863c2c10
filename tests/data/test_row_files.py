"""Files of rows: kinds, encodings, errors with their place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from posttrain.data.rows import load_rows
from posttrain.errors import DataError

ROWS = [
    {"prompt": "a", "answer": 1},
    {"prompt": "b", "answer": "two"},
]  # an answer of another type in each row


def test_text_kinds(tmp_path: Path) -> None:
    lines = "".join(json.dumps(r) + "\n" for r in ROWS)
    (tmp_path / "a.jsonl").write_text(lines + "\n")
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "b.json").write_text(json.dumps({"data": ROWS, "version": 1}))
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(lines)
    for name in ("a.jsonl", "a.json", "b.json", "a.jsonl.gz"):
        assert load_rows(tmp_path / name) == ROWS
    (tmp_path / "a.csv").write_text('prompt,answer\n"x, y",1\n')
    (tmp_path / "a.tsv").write_text("prompt\tanswer\nx\t1\n")
    assert load_rows(tmp_path / "a.csv") == [{"prompt": "x, y", "answer": "1"}]
    assert load_rows(tmp_path / "a.tsv") == [{"prompt": "x", "answer": "1"}]
    (tmp_path / "a.txt").write_text("one\ntwo\n\n\nthree\n")
    assert load_rows(tmp_path / "a.txt") == [{"text": "one\ntwo"}, {"text": "three"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', r"a.jsonl:2: not valid JSON .* near: '\{\"a\":"),
        ("a.jsonl", "[1]\n", r"a.jsonl:1: a row must be an object"),
        ("a.jsonl", "\n", "holds no rows"),
        ("a.json", '{"a": 1}\n{"a": 2}\n', "one object a line is JSONL; rename"),
        ("a.json", '{"a": 1}', "the object holds 0 lists"),
        ("a.json", "[1]", "row 0 must be an object"),
        ("a.csv", "a,b\n1\n", r"a.csv:2: the row has another number of cells"),
        ("a.xyz", "x", "'.xyz'"),
        ("a.jsonl.gz", "not gzip", "cannot be read"),
        ("a.json", "5", r"rows are a list, or an object with one list in it, not int"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_rows(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "prompt,completion\na,b\n"), ("a.jsonl", '{"prompt": "a", "completion": "b"}\n')],
)
def test_a_byte_order_mark_is_no_part_of_a_column(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert load_rows(tmp_path / name) == [{"prompt": "a", "completion": "b"}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"What is two plus two, in your own words,four\nb,c\n"),  # no header
        ("a.tsv", b"gj04\t1\t\tOur friends will not buy this analysis.\n"),
        ("a.csv", b"0.5,1\n0.25,2\n"),
        ("a.csv", b"prompt;completion\na;b\n"),
        ("a.csv", "prompt,completion\na,d\u00e9j\u00e0 vu\n".encode("latin-1")),
    ],
)
def test_errors_of_files_are_one_short_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name) as caught:
        load_rows(tmp_path / name)
    text = str(caught.value).replace(str(tmp_path), "")
    assert "\n" not in text and len(text) < 200
