from __future__ import annotations

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


def test_missing_files_suggest_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="did you mean 'train.jsonl'"):
        load_rows(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match="holds no data files"):
        (tmp_path / "empty").mkdir()
        load_rows(tmp_path / "empty")


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


def test_a_missing_file_does_not_list_its_folder(tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"part-{number:03}.bin").touch()
    with pytest.raises(DataError) as caught:
        load_rows(tmp_path / "x.jsonl")
    assert len(str(caught.value)) < len(str(tmp_path)) + 100
