"""Text files, plain or compressed, read line by line within bounds that a hostile file cannot pass.

A line may have `MAX_LINE` characters. A .gz file may hold `GZIP_FREE` bytes and `GZIP_RATIO` times
its own size: text is rarely compressed to less than a twentieth, and a file made to fill the memory
to less than a thousandth.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from posttrain.errors import DataError, shown

MAX_LINE = 2**27
"""Most characters of one line, and of one row of CSV."""

GZIP_FREE, GZIP_RATIO = 2**28, 100


class _Unpacked(io.RawIOBase):
    """The content of a .gz file, up to a limit."""

    def __init__(self, path: Path) -> None:
        self._file = gzip.open(path, "rb")  # noqa: SIM115  closed in close
        self._path = path
        self._limit = GZIP_FREE + GZIP_RATIO * path.stat().st_size
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._file.read(len(buffer))
        buffer[: len(chunk)] = chunk
        self._count += len(chunk)
        if self._count > self._limit:
            raise DataError(
                f"{self._path} unpacks to more than {self._limit:,} bytes, {GZIP_RATIO} times its "
                "size; if that is right, "
                "unpack it with gunzip and use the unpacked file"
            )
        return len(chunk)

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def opened(path: Path) -> Iterator[io.TextIOWrapper]:
    """A text file in UTF-8 to read, unpacked if its name ends in .gz.

    Raises:
        DataError: it cannot be read, is not UTF-8, or is damaged; also while the caller reads.
    """
    # utf-8-sig: files from spreadsheets begin with a mark that would become part of the first
    # column's name.
    code = "utf-8-sig"
    try:
        if path.suffix == ".gz":
            stream: Any = io.TextIOWrapper(io.BufferedReader(_Unpacked(path), 2**17), encoding=code)
        else:
            stream = path.open(encoding=code)
        with stream:
            yield stream
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DataError(
            f"{path} is not UTF-8 text (byte 0x{byte:02x}{_bad_line(path)}); save it as UTF-8, "
            "such as by "
            "iconv -f latin1 -t utf-8"
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} cannot be read: the compressed file is damaged or cut off ({error}); copy it "
            "again"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _bad_line(path: Path) -> str:
    if path.suffix == ".gz":
        return ""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return f" in line {number}"
    return ""


def lines_of(stream: io.TextIOBase, path: Path) -> Iterator[str]:
    """The lines of a file, each with its end.

    Raises:
        DataError: a line of more than `MAX_LINE` characters.
    """
    number = 0
    while line := stream.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise DataError(
                f"{path}:{number}: the line has more than {MAX_LINE:,} characters; a row may have "
                "no more, so split it"
            )
        yield line


_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def parsed_json(text: str, where: str) -> Any:
    """A value from JSON.

    Args:
        where: file and line or row and column, for the message.
    Raises:
        DataError: not JSON, nested too deeply, an integer of over 4,300 digits, or half a
        character.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        around = text[max(error.pos - 30, 0) : error.pos + 30].strip()
        raise DataError(f"{where}: not valid JSON ({error.msg}) near: {around!r}") from error
    except ValueError as error:
        raise DataError(
            f"{where}: an integer has more than 4,300 digits; write it as text"
        ) from error
    except RecursionError as error:
        raise DataError(
            f"{where}: lists or objects are nested too deeply to be read; flatten them"
        ) from error
    if _HALF.search(text):
        refuse_half_characters(value, where)
    return value


def refuse_half_characters(value: Any, where: str) -> None:
    """Refuse a lone surrogate in any text of a value: it is no character, and cannot be tokenised
    or written.

    Raises:
        DataError: names the text.
    """
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack += [*item, *item.values()]
        elif isinstance(item, list):
            stack += item
        elif isinstance(item, str) and not item.isascii():
            try:
                item.encode()
            except UnicodeEncodeError as error:
                around = item[max(error.start - 20, 0) : error.end + 20]
                raise DataError(
                    f"{where}: half a character (a lone surrogate) in {shown(around)}; remove it "
                    "or write its other half"
                ) from error
