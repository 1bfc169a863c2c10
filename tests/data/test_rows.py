from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.config import DataConfig
from posttrain.data.rows import load_rows, rows_of, stream_of
from posttrain.errors import ConfigError, DataError

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


def test_through_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(
        [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": "2"}]
    )
    table.to_parquet(tmp_path / "a.parquet")
    table.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": table, "test": table.select([1])}).save_to_disk(
        tmp_path / "splits"
    )
    assert load_rows(tmp_path / "a.parquet")[1] == {"prompt": "b", "answer": "2"}
    assert load_rows(tmp_path / "a.parquet", limit=1) == [{"prompt": "a", "answer": "1"}]
    assert len(load_rows(tmp_path / "saved")) == 2
    assert load_rows(tmp_path / "splits", split="test") == [{"prompt": "b", "answer": "2"}]
    with pytest.raises(DataError, match="no split 'tset': did you mean 'test'"):
        load_rows(tmp_path / "splits", split="tset")
    (tmp_path / "b.parquet").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"b.parquet cannot be read as parquet"):
        load_rows(tmp_path / "b.parquet")


def test_folders_and_limits(tmp_path: Path) -> None:
    for name, text in (("train-0", "a"), ("train-1", "b"), ("test", "c")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    assert [r["text"] for r in load_rows(tmp_path)] == ["a", "b"]
    assert [r["text"] for r in load_rows(tmp_path, split="test")] == ["c"]
    assert [r["text"] for r in load_rows(tmp_path, split="validation")] == ["c", "a", "b"]
    assert [r["text"] for r in load_rows(tmp_path, limit=1)] == ["a"]


def test_columns_are_renamed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"input": "x", "target": "y"}\n')
    assert load_rows(tmp_path / "a.jsonl", columns={"prompt": "input", "completion": "target"}) == [
        {"prompt": "x", "completion": "y"}
    ]
    with pytest.raises(DataError, match="no column 'inptu': did you mean 'input'"):
        load_rows(tmp_path / "a.jsonl", columns={"prompt": "inptu"})


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


def test_missing_files_suggest_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="did you mean 'train.jsonl'"):
        load_rows(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match="holds no data files"):
        (tmp_path / "empty").mkdir()
        load_rows(tmp_path / "empty")


def test_a_hub_name_without_network_says_so() -> None:
    pytest.importorskip("datasets")
    with pytest.raises(
        DataError, match="neither a file nor a folder here, and as a hub data set it failed"
    ):
        load_rows("nobody/nothing-of-this-name")


def test_rows_in_memory() -> None:
    assert rows_of(ROWS) == ROWS and rows_of(tuple(ROWS)) == ROWS
    assert rows_of(DataConfig.of(ROWS, limit=1)) == ROWS[:1]
    renamed = DataConfig.of([{"q": "a"}], columns={"prompt": "q"})
    assert rows_of(renamed) == [{"prompt": "a"}]
    once = DataConfig.of(row for row in ROWS)  # an iterator can be read several times
    assert rows_of(once) == rows_of(once) == ROWS
    stream = stream_of({"prompt": str(i)} for i in range(3))
    assert next(stream) == {"prompt": "0"}


def test_paths_and_configurations_are_rows_too(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    assert rows_of(path) == rows_of(str(path)) == rows_of(DataConfig(str(path))) == ROWS


def test_data_sets_of_the_library_are_rows() -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}])
    assert rows_of(table) == [{"prompt": "a"}, {"prompt": "b"}]
    assert rows_of(DataConfig.of(table.to_iterable_dataset(), limit=1)) == [{"prompt": "a"}]
    splits = datasets.DatasetDict({"train": table, "test": table.select([1])})
    assert rows_of(DataConfig.of(splits, split="test")) == [{"prompt": "b"}]
    with pytest.raises(DataError, match="did you mean 'test'"):
        rows_of(DataConfig.of(splits, split="tset"))


def test_data_sets_are_recognised_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)  # an import would raise
    assert rows_of(ROWS) == ROWS


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ([{"prompt": "a"}, "b" * 10_000], "row 1 is 'bbb"),
        ([], "no rows"),
        (5, "rows are 5"),
        ({"prompt": ["a", "b"]}, "list of dictionaries"),
    ],
)
def test_what_are_no_rows_is_named_briefly(value: Any, named: str) -> None:
    with pytest.raises(DataError, match=named) as caught:
        rows_of(value)
    assert len(str(caught.value)) < 300


def test_a_table_of_pandas_names_the_way_out() -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(DataError, match="to_dict"):
        rows_of(pandas.DataFrame({"prompt": ["a"]}))


def test_settings_of_data_are_checked() -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_length'"):
        DataConfig.of(ROWS, max_lenght=3)
    with pytest.raises(ConfigError, match=r"data\.max_unusable: 2"):
        DataConfig.of(ROWS, max_unusable=2)
    with pytest.raises(ConfigError, match=r"data\.subset"):
        DataConfig.of(ROWS, subset="main")
    assert DataConfig.of(DataConfig.of(ROWS, limit=1), max_length=9).rows is ROWS


def test_recipes_have_no_rows_in_memory(tiny_folder: Path) -> None:
    from posttrain.recipe import parse_recipe

    raw = {"method": "sft", "model": str(tiny_folder), "data": {"path": "a", "rows": ROWS}}
    with pytest.raises(ConfigError, match=r"unknown key 'data\.rows'"):
        parse_recipe(raw)


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
