"""Rows from wherever they are: in memory, in files and folders, on the Hugging Face hub."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.config import DataConfig, DataLike, SourceConfig
from posttrain.data.hub import is_dataset, read_hub, table_rows
from posttrain.data.mixture import Reader, counts, in_one_format, mixed, rates, size_of
from posttrain.data.registered_files import is_registry, read_registered
from posttrain.data.row_files import KINDS, Row, files_of, read_file, read_folder
from posttrain.errors import DataError, nearest, nearest_files, shown
from posttrain.memory import without_collection

__all__ = ["Row", "files_of", "load_rows", "rows_of", "stream_of", "stream_rows"]

_IN_MEMORY = "the rows"


@without_collection()
def rows_of(data: DataLike) -> list[Row]:
    """The rows of anything that holds rows.

    >>> rows_of([{"prompt": "2+2?", "answer": "4"}])
    [{'prompt': '2+2?', 'answer': '4'}]

    Args:
        data: a path, the id of a hub data set, a list of dictionaries, a `datasets.Dataset`, an
            `IterableDataset`, or a `DataConfig` of one of these with its split, limit and columns.
    Raises:
        DataError: there is no row, a row is no dictionary, or a file cannot be read; names it.
    """
    return list(stream_of(data))


def stream_of(data: DataLike) -> Iterator[Row]:
    """The rows of `rows_of`, read one after the other, so that they may exceed memory.

    Raises:
        DataError: as `rows_of`, when the row in question is read.
    """
    config = DataConfig.of(data)
    if config.rows is not None:
        rows = _rows_in_memory(config.rows, config.split)
        return _selected(rows, _IN_MEMORY, config.limit, config.columns)
    if config.sources:
        return itertools.islice(_mixture(config), config.limit)
    return stream_rows(
        config.path,
        subset=config.subset,
        split=config.split,
        limit=config.limit,
        columns=config.columns,
    )


def _mixture(config: DataConfig) -> Iterator[Row]:
    """The rows of several sources, in a random order."""

    def reader(source: SourceConfig) -> Reader:
        return lambda: stream_rows(
            source.path,
            subset=source.subset,
            split=source.split,
            limit=source.limit,
            columns=source.columns,
        )

    names = [source.path for source in config.sources]
    readers = in_one_format([reader(source) for source in config.sources], names)
    sizes = [size_of(read, name) for read, name in zip(readers, names, strict=True)]
    weights = [source.weight for source in config.sources if source.weight is not None]
    shares = rates(
        sizes,
        weights=weights or None,
        temperature=config.temperature,
        max_examples=config.max_examples,
    )
    numbers = counts(sizes, shares, config.num_rows)
    for _, row in mixed(readers, numbers, sizes, seed=config.mixing_seed):
        yield dict(row)


@without_collection()
def load_rows(
    path: str | Path,
    *,
    subset: str | None = None,
    split: str = "train",
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Row]:
    """The rows of a file, a folder of files, a folder saved by `datasets`, or a hub data set.

    JSON, JSONL, CSV, TSV and text files (also .gz) are read row by row, so that a column may hold
    different types in different rows and errors name the line. Parquet, Arrow and hub data sets
    are read by the library `datasets`. A text file has one row {"text": ...} for each part between
    blank lines.

    Args:
        subset: configuration of a hub data set; name of a data set in a folder with a registry of
            several (dataset_info.json).
        split: of a hub data set; in a folder, the files whose names contain it (all files if none
            does).
        limit: largest number of rows.
        columns: {our name: name in the file}.
    Raises:
        DataError: a file is missing, empty or broken; names file and line.
    """
    return list(stream_rows(path, subset=subset, split=split, limit=limit, columns=columns))


def stream_rows(
    path: str | Path,
    *,
    subset: str | None = None,
    split: str = "train",
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> Iterator[Row]:
    """The rows of `load_rows`, read one after the other, so that a file may exceed memory.

    A .json file is one value and is read whole.

    Raises:
        DataError: as `load_rows`, when the row in question is read.
    """
    place = Path(path).expanduser()
    if place.is_file():
        rows = read_file(place)
    elif place.is_dir() and is_registry(place):
        rows = read_registered(place, subset, read_file)
    elif place.is_dir():
        rows = read_folder(place, split)
    elif place.suffix in (*KINDS, ".gz") or str(path).startswith((".", "/", "~")):
        names = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        raise DataError(f"no file or folder {str(path)!r}: {nearest_files(place.name, names)}")
    else:
        rows = read_hub(str(path), subset, split)
    yield from _selected(rows, str(path), limit, columns or {})


def _selected(
    rows: Iterator[Row], where: str, limit: int | None, columns: Mapping[str, str]
) -> Iterator[Row]:
    """At most `limit` rows, with their columns renamed."""
    rows = itertools.islice(rows, limit)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{where} holds no rows")
    for theirs in columns.values():
        if theirs not in first:
            raise DataError(f"{where} has no column {theirs!r}: {nearest(theirs, first)}")
    our_names = {theirs: ours for ours, theirs in columns.items()}
    for row in itertools.chain([first], rows):
        yield {our_names.get(k, k): v for k, v in row.items()} if our_names else row


def _rows_in_memory(rows: Any, split: str) -> Iterator[Row]:
    if is_dataset(rows):
        return table_rows(rows, split, "the data set")
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(rows, pandas.DataFrame):
        raise DataError('rows are a pandas.DataFrame; pass frame.to_dict("records")')
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise DataError(
            f"rows are {shown(rows)}; they must be a list of dictionaries, a path or a "
            "datasets.Dataset"
        )
    return _dictionaries(rows)


def _dictionaries(rows: Iterable[Any]) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(
                f"row {number} is {shown(row)}; a row must be a dictionary of columns, such as "
                "{'prompt': ..., 'completion': ...}"
            )
        yield row if isinstance(row, dict) else dict(row)
