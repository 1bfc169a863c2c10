"""Rows to a JSONL file that is complete or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError
from posttrain.files import flush


def check_output(output: str | Path, *, force: bool = False) -> Path:
    """The file that rows are written to.

    Raises:
        ConfigError: it does not end in .jsonl, or it is there already (unless `force`).
    """
    path = Path(output).expanduser()
    if path.suffix != ".jsonl":
        raise ConfigError(
            f"output: {str(output)!r} must end in .jsonl; rows are written one a line"
        )
    if path.exists() and not force:
        raise ConfigError(
            f"output: {str(output)!r} is there already; choose another name, or say force"
        )
    return path


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows under a temporary name and rename the file; returns their number.

    Values that JSON does not have, such as dates of a table, are written as text.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    number = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                number += 1
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)
    return number
