"""Tables that the library `datasets` reads: Parquet and Arrow files, saved folders, hub data sets.

This is the only module that imports the library. An object of the library is recognised without
importing it, because whoever passes one has imported it already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.errors import DataError, MissingDependency, nearest


def is_dataset(value: Any) -> bool:
    """Whether a value is a `datasets.Dataset`, `IterableDataset` or a dictionary of splits."""
    library = sys.modules.get("datasets")
    if library is None:
        return False
    names = ("Dataset", "IterableDataset", "DatasetDict", "IterableDatasetDict")
    kinds = tuple(getattr(library, name) for name in names if hasattr(library, name))
    return bool(kinds) and isinstance(value, kinds)


def table_rows(table: Any, split: str, where: str) -> Iterator[dict[str, Any]]:
    """The rows of a data set of the library; of a dictionary of splits, those of `split`.

    Raises:
        DataError: there is no such split.
    """
    if hasattr(table, "keys"):  # a dictionary of splits
        if split not in table:
            raise DataError(f"{where} has no split {split!r}: {nearest(split, list(table))}")
        table = table[split]
    return iter(table)


def read_table(path: Path, kind: str) -> Iterator[dict[str, Any]]:
    """The rows of a file. kind: "parquet" or "arrow".

    Raises:
        DataError: the file cannot be read.
    """
    library = _datasets()
    try:
        table = library.load_dataset(kind, data_files=str(path), split="train")
    except Exception as error:  # the library raises many kinds for a broken file
        raise DataError(f"{path} cannot be read as {kind}: {_first_line(error)}") from error
    return iter(table)


def read_saved(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a folder that the library has saved.

    Raises:
        DataError: there is no such split.
    """
    return table_rows(_datasets().load_from_disk(str(folder)), split, str(folder))


def read_hub(name: str, subset: str | None, split: str) -> Iterator[dict[str, Any]]:
    """The rows of a data set on the Hugging Face hub.

    Raises:
        DataError: no network, or no data set, subset or split of this name.
    """
    library = _datasets()
    try:
        table = library.load_dataset(name, subset, split=split)
    except Exception as error:  # the library raises its own kinds, and those of the network
        raise DataError(
            f"{name!r} is neither a file nor a folder here, and as a hub data set it failed: "
            f"{_first_line(error)}"
        ) from error
    return iter(table)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else repr(error)


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency("datasets", "data") from error
    datasets.disable_progress_bars()
    return datasets
