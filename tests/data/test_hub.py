"""Rows of the datasets library and of its hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.config import DataConfig
from posttrain.data.rows import load_rows, rows_of
from posttrain.errors import DataError

ROWS = [
    {"prompt": "a", "answer": 1},
    {"prompt": "b", "answer": "two"},
]  # an answer of another type in each row


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


def test_a_hub_name_without_network_says_so() -> None:
    pytest.importorskip("datasets")
    with pytest.raises(
        DataError, match="neither a file nor a folder here, and as a hub data set it failed"
    ):
        load_rows("nobody/nothing-of-this-name")


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
