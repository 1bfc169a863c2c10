"""Rows of data files: JSON, JSONL, CSV, TSV, plain text, Parquet, Arrow, and folders of these."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.data.hub import read_saved, read_table
from posttrain.data.text_files import MAX_LINE, lines_of, opened, parsed_json
from posttrain.errors import DataError, shown

Row = dict[str, Any]

_TEXT_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
KINDS = (*_TEXT_KINDS, ".parquet", ".arrow")
"""Endings of the names of data files."""

_MAX_NAME_WORDS, _MAX_NAME_LENGTH = 6, 60  # of a column; a longer first cell is a row's text


def kind_of_file(path: Path) -> str:
    """The ending that says how a file is read: that before `.gz` of a compressed file."""
    return Path(path.stem).suffix.lower() if path.suffix == ".gz" else path.suffix.lower()


def read_file(path: Path) -> Iterator[Row]:
    """The rows of a file, one after the other; a .json file is one value and is read whole.

    Raises:
        DataError: an unknown ending, or a file that is broken; names the line.
    """
    kind = kind_of_file(path)
    if kind not in KINDS:
        raise DataError(
            f"{path}: unknown ending {path.suffix!r}; data files end in {', '.join(KINDS)} (text "
            "kinds also in .gz)"
        )
    if kind in (".parquet", ".arrow"):
        yield from read_table(path, kind.removeprefix("."))
        return
    with opened(path) as stream:
        yield from _READERS[kind](stream, path)


def _jsonl(stream: io.TextIOBase, path: Path) -> Iterator[Row]:
    for number, line in enumerate(lines_of(stream, path), 1):
        if not line.strip():
            continue
        row = parsed_json(line, f"{path}:{number}")
        if not isinstance(row, dict):
            raise DataError(
                f"{path}:{number}: a row must be an object with named columns, not "
                f"{type(row).__name__}"
            )
        yield row


def _json(stream: io.TextIOBase, path: Path) -> Iterator[Row]:
    text = stream.read()
    try:
        content = parsed_json(text, str(path))
    except DataError as error:
        cause = error.__cause__
        if isinstance(cause, json.JSONDecodeError) and cause.msg == "Extra data":
            raise DataError(
                f"{path}:{cause.lineno}: one object a line is JSONL; rename the file to .jsonl"
            ) from cause
        if isinstance(cause, json.JSONDecodeError):
            raise DataError(f"{path}:{cause.lineno}: not valid JSON: {cause.msg}") from cause
        raise
    if isinstance(content, dict):
        lists = {k: v for k, v in content.items() if isinstance(v, list)}
        if len(lists) != 1:
            raise DataError(
                f"{path}: the object holds {len(lists)} lists; rows are a list, or an object with "
                "one list in it"
            )
        content = next(iter(lists.values()))
    if not isinstance(content, list):
        raise DataError(
            f"{path}: rows are a list, or an object with one list in it, not "
            f"{type(content).__name__}"
        )
    for number, row in enumerate(content):
        if not isinstance(row, dict):
            raise DataError(
                f"{path}: row {number} must be an object with named columns, not "
                f"{type(row).__name__}"
            )
        yield row


def _csv(stream: io.TextIOBase, path: Path) -> Iterator[Row]:
    delimiter = "\t" if kind_of_file(path) == ".tsv" else ","
    reader = csv.DictReader(lines_of(stream, path), delimiter=delimiter)
    limit = csv.field_size_limit(MAX_LINE)
    try:
        _check_header(list(reader.fieldnames or []), path)
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}:{reader.line_num}: the row has another number of cells than the header"
                )
            yield dict(row)
    except csv.Error as error:
        raise DataError(
            f"{path}:{reader.line_num}: not valid CSV ({error}); is a quotation mark left open?"
        ) from error
    finally:
        csv.field_size_limit(limit)


def _check_header(names: list[str], path: Path) -> None:
    """Refuse a first line that cannot be the names of the columns."""
    way_out = "the first line must name the columns, such as prompt,completion"
    kind = kind_of_file(path)
    if len(names) == 1:
        other = next((d for d in (";", "\t", "|", ",") if d in names[0]), None)
        if other is not None:
            separator = "tabs" if kind == ".tsv" else "commas"
            raise DataError(
                f"{path}:1: the cells seem to be separated by {other!r}; a {kind} file needs "
                f"{separator}. Save the file with {separator}"
            )
    for name in names:
        if not _names_column(name):
            raise DataError(f"{path}:1: {shown(name, 50)} is no name of a column: {way_out}")
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise DataError(f"{path}:1: the column {shown(twice, 50)} occurs twice; {way_out}")


def _names_column(cell: str) -> bool:
    """Whether a cell of the first line can be a name: no number and no sentence."""
    try:
        float(cell)
    except ValueError:
        pass
    else:
        return False
    short = len(cell) <= _MAX_NAME_LENGTH and len(cell.split()) <= _MAX_NAME_WORDS
    return bool(cell.strip()) and short and "\n" not in cell


def _text(stream: io.TextIOBase, path: Path) -> Iterator[Row]:
    lines: list[str] = []
    for line in lines_of(stream, path):
        if line.strip():
            lines.append(line)
        elif lines:
            yield {"text": "".join(lines).rstrip("\n")}
            lines = []
    if lines:
        yield {"text": "".join(lines).rstrip("\n")}


_READERS = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".txt": _text,
}


def read_folder(folder: Path, split: str) -> Iterator[Row]:
    """The rows of a folder: of its data files in the order of their names, or of a folder that
    the library `datasets` has saved.

    Raises:
        DataError: there is no data file, no such split, or a file is broken.
    """
    if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
        yield from read_saved(folder, split)
        return
    for path in files_of(folder, split):
        yield from read_file(path)


def files_of(folder: Path, split: str) -> list[Path]:
    """The data files of a folder whose names hold `split`; all of them if none does.

    Raises:
        DataError: there is no data file.
    """
    files = sorted(p for p in folder.iterdir() if p.is_file() and kind_of_file(p) in KINDS)
    if not files:
        raise DataError(f"{folder} holds no data files; their names end in {', '.join(KINDS)}")
    return [p for p in files if split in p.name] or files
