"""Reading rows from files, folders and hub data sets."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.data.text_files import MAX_LINE, lines_of, opened, parsed_json
from posttrain.errors import DataError, MissingDependency, nearest, shown
from posttrain.memory import without_collection

Row = dict[str, Any]

_TEXT_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
_KINDS = (*_TEXT_KINDS, ".parquet", ".arrow")


@without_collection()
def load_rows(
    path: str | Path,
    *,
    subset: str | None = None,
    split: str = "train",
    limit: int | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Row]:
    """Rows of a file, a folder of files, a folder saved by `datasets`, or a data set on the Hugging
    Face hub.

    JSON, JSONL, CSV, TSV and text files (also .gz) are read here, row by row, so that columns may
    hold different types in different rows and errors name the line; Parquet, Arrow and hub data
    sets are read by `datasets`. A text file gives one row {"text": ...} for each part between blank
    lines.

    Args:
        subset: configuration of a hub data set. split: of a hub data set; in a folder, the files
        whose names hold it
            (all files where none does). limit: rows to read at most. columns: {ours: theirs},
            renamed on the way.
    Raises:
        DataError: missing, empty or broken files, with file and line.
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

    JSONL, CSV, TSV, text, Parquet and Arrow are read so; a .json file is one value and is read
    whole.

    Raises:
        DataError: as `load_rows`, once the first row or the broken one is asked for.
    """
    place = Path(path).expanduser()
    if place.is_file():
        rows = _file(place)
    elif place.is_dir():
        rows = _folder(place, split)
    elif place.suffix in (*_KINDS, ".gz") or str(path).startswith((".", "/", "~")):
        names = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        raise DataError(f"no file or folder {str(path)!r}: {nearest(place.name, names)}")
    else:
        rows = _hub(str(path), subset, split)
    rows = itertools.islice(rows, limit)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path} holds no rows")
    for theirs in (columns or {}).values():
        if theirs not in first:
            raise DataError(f"{path} has no column {theirs!r}: {nearest(theirs, first)}")
    back = {theirs: ours for ours, theirs in (columns or {}).items()}
    for row in itertools.chain([first], rows):
        yield {back.get(k, k): v for k, v in row.items()} if back else row


def _kind(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix == ".gz" else path.suffix.lower()


def _file(path: Path) -> Iterator[Row]:
    kind = _kind(path)
    if kind not in _KINDS:
        raise DataError(
            f"{path}: unknown kind of file {path.suffix!r}; known are {', '.join(_KINDS)} (the "
            "text kinds also .gz)"
        )
    if kind in (".parquet", ".arrow"):
        yield from _through_datasets(kind.removeprefix("."), path)
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
    delimiter = "\t" if _kind(path) == ".tsv" else ","
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
    """Refuse a first line that names no columns, as far as that shows."""
    way_out = "the first line must name the columns, such as prompt,completion"
    if len(names) == 1 and (
        other := next((d for d in (";", "\t", "|", ",") if d in names[0]), None)
    ):
        wanted = "tabs" if _kind(path) == ".tsv" else "commas"
        raise DataError(
            f"{path}:1: cells seem separated by {other!r}, and a {_kind(path)} file's are by "
            f"{wanted}; save it so"
        )
    for name in names:
        if not name.strip() or len(name) > 100 or "\n" in name:
            raise DataError(f"{path}:1: {shown(name, 50)} is no name of a column: {way_out}")
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise DataError(
            f"{path}:1: the column {shown(twice, 50)} stands twice; {way_out}, each once"
        )


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


def _folder(folder: Path, split: str) -> Iterator[Row]:
    if (folder / "dataset_info.json").exists() or (folder / "dataset_dict.json").exists():
        yield from _saved(folder, split)
        return
    for path in files_of(folder, split):
        yield from _file(path)


def files_of(folder: Path, split: str) -> list[Path]:
    """The data files of a folder: those whose names hold `split`, or all where none does.

    Raises:
        DataError: there is none.
    """
    found = sorted(p for p in folder.iterdir() if p.is_file() and _kind(p) in _KINDS)
    if not found:
        raise DataError(f"{folder} holds no data files; known kinds are {', '.join(_KINDS)}")
    return [p for p in found if split in p.name] or found


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependency("datasets", "data") from error
    datasets.disable_progress_bars()
    return datasets


def _through_datasets(kind: str, path: Path) -> Iterator[Row]:
    datasets = _datasets()
    try:
        table = datasets.load_dataset(kind, data_files=str(path), split="train")
    except Exception as error:  # the library raises many kinds for a broken file
        raise DataError(
            f"{path} cannot be read as {kind}: "
            f"{str(error).splitlines()[0] if str(error) else error!r}"
        ) from error
    return iter(table)


def _saved(folder: Path, split: str) -> Iterator[Row]:
    found = _datasets().load_from_disk(str(folder))
    if hasattr(found, "keys"):
        if split not in found:
            raise DataError(f"{folder} has no split {split!r}: {nearest(split, list(found))}")
        found = found[split]
    return iter(found)


def _hub(name: str, subset: str | None, split: str) -> Iterator[Row]:
    datasets = _datasets()
    try:
        table = datasets.load_dataset(name, subset, split=split)
    except (
        Exception
    ) as error:  # no network, unknown name, unknown split: all told by the library in its own words
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise DataError(
            f"{name!r} is neither a file nor a folder here, and as a hub data set it failed: "
            f"{reason}"
        ) from error
    return iter(table)
