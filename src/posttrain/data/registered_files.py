"""Folders of files with a registry, dataset_info.json, as LLaMA-Factory writes them.

    {"name": {"file_name": "rows.json", "formatting": "alpaca" | "sharegpt", "columns": {...},
              "tags": {...}}}

`columns` and `tags` say what the file calls the columns and roles of alpaca and ShareGPT rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from posttrain.errors import DataError, nearest

Row = dict[str, Any]
REGISTRY = "dataset_info.json"

_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_SHAREGPT = {"messages": "conversations"}
_TAGS = {
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}


def is_registry(folder: Path) -> bool:
    """Whether a folder has such a registry. The library `datasets` writes a file of the same name,
    which holds no file names.
    """
    return bool(_entries(folder))


def _entries(folder: Path) -> dict[str, Mapping[str, Any]]:
    place = folder / REGISTRY
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        name: entry
        for name, entry in content.items()
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str)
    }


def read_registered(
    folder: Path, name: str | None, read: Callable[[Path], Iterator[Row]]
) -> Iterator[Row]:
    """The rows of one data set of a folder, with the names of columns and roles that we know.

    Args:
        name: of the data set; None is right where there is only one.
        read: reads a file.
    Raises:
        DataError: no such name or file.
    """
    entries = _entries(folder)
    if name is None and len(entries) == 1:
        name = next(iter(entries))
    if name not in entries:
        raise DataError(
            f"{folder}/{REGISTRY} holds {len(entries)} data sets; name one with data.subset: "
            f"{nearest(name or '', entries)}"
        )
    entry = entries[name]
    path = folder / entry["file_name"]
    if not path.is_file():
        raise DataError(
            f"{folder}/{REGISTRY}: {name!r} is in {entry['file_name']!r}, and there is no such file"
        )
    columns, tags = dict(entry.get("columns") or {}), dict(entry.get("tags") or {})
    shared = entry.get("formatting", "alpaca") == "sharegpt"
    for row in read(path):
        yield _sharegpt(row, columns, tags) if shared else _alpaca(row, columns)


def _alpaca(row: Row, columns: Mapping[str, str]) -> Row:
    if set(columns) == {"prompt"}:  # text to continue: pretraining
        return {"text": row[columns["prompt"]]} if columns["prompt"] in row else row
    return _renamed(row, {theirs: _ALPACA.get(key, key) for key, theirs in columns.items()})


def _sharegpt(row: Row, columns: Mapping[str, str], tags: Mapping[str, str]) -> Row:
    row = _renamed(row, {theirs: _SHAREGPT.get(key, key) for key, theirs in columns.items()})
    role, content = tags.get("role_tag", "from"), tags.get("content_tag", "value")
    roles = {tags.get(key, ours): ours for key, ours in _TAGS.items()}

    def turn(message: Any) -> Any:
        if not isinstance(message, Mapping):
            return message
        said = message.get(role)
        others = {k: v for k, v in message.items() if k not in (role, content)}
        return {**others, "from": roles.get(str(said), said), "value": message.get(content)}

    for column in ("conversations", "chosen", "rejected"):
        value = row.get(column)
        if isinstance(value, list):
            row[column] = [turn(message) for message in value]
        elif isinstance(value, Mapping):
            row[column] = turn(value)
    return row


def _renamed(row: Row, names: Mapping[str, str]) -> Row:
    return {names.get(column, column): value for column, value in row.items()}
