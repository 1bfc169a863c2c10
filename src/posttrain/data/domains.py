"""Domains of text, each with a part to train on and a held-out part without a common document."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.config import DataConfig, DataLike
from posttrain.data.corpus import read_parts, text_files
from posttrain.data.row_files import KINDS, kind_of_file
from posttrain.data.rows import stream_of
from posttrain.errors import ConfigError, DataError

Row = dict[str, Any]

_HELD_OUT = re.compile(r"(?:^|[^a-z])(?:test|held[_-]?out|valid|validation|eval)(?:[^a-z]|$)")
_NAME = re.compile(r"[\w.\-]+")


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain by name. held_out: its held-out rows, None where they are split off `data`."""

    name: str
    data: DataConfig
    held_out: DataConfig | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """The two parts of a domain as files of rows.

    Attributes:
        train, held_out: files in JSONL. num_train, num_held_out: their documents.
        characters: of the part to train on.
    """

    name: str
    train: Path
    held_out: Path
    num_train: int
    num_held_out: int
    characters: int


def domains_of(data: DataConfig | Mapping[str, DataLike]) -> list[Domain]:
    """The domains of a folder, or of a mapping from name to rows.

    Each file and each folder in the folder is a domain. In the folder of a domain, files with
    "test", "valid", "eval" or "held_out" in their names are its held-out part.

    Args:
        data: a folder with the settings of how each domain is read, or rows by name.
    Raises:
        ConfigError: no folder, fewer than two domains, or a name that is no file name.
    """
    if isinstance(data, DataConfig):
        domains = _in_folder(data)
        where = data.path
    else:
        domains = [Domain(str(name), DataConfig.of(rows)) for name, rows in data.items()]
        where = "the mapping"
    if len(domains) < 2:
        raise ConfigError(
            f"data: {where} holds {len(domains)} domain{'s' * (len(domains) != 1)}; a stream needs "
            "at least two files or folders, one for each domain"
        )
    for domain in domains:
        if not _NAME.fullmatch(domain.name):
            raise ConfigError(
                f"data: domain {domain.name!r} gives its name to files; use letters, digits, "
                "'_', '-' and '.' alone"
            )
    return domains


def _in_folder(data: DataConfig) -> list[Domain]:
    folder = Path(data.path).expanduser()
    if not data.path or data.rows is not None or not folder.is_dir():
        raise ConfigError(
            f"data.path: {data.path} is no folder; give one with a file or a folder for each "
            "domain, or in Python a mapping from names to rows"
        )
    domains = {}
    for place in sorted(folder.iterdir()):
        is_data = place.is_dir() or kind_of_file(place) in KINDS
        if place.name.startswith(".") or not is_data:
            continue
        name = place.name if place.is_dir() else place.name.removesuffix(".gz").rpartition(".")[0]
        if name in domains:
            raise ConfigError(f"data: {folder} holds two domains named {name!r}; rename one")
        domains[name] = _at(place, name, data)
    return list(domains.values())


def _at(place: Path, name: str, data: DataConfig) -> Domain:
    whole = Domain(name, replace(data, path=str(place)))
    if not place.is_dir():
        return whole
    held_out = [p for p in _data_files(place) if _HELD_OUT.search(p.name.lower())]
    train = [p for p in _data_files(place) if p not in held_out]
    if not held_out:
        return whole
    if len(held_out) > 1 or len(train) != 1:
        raise ConfigError(
            f"data: domain {name!r} has {len(train)} files to train on and {len(held_out)} "
            "held-out ones; give one of each, or no held-out file, so that a share is held out"
        )
    parts = (replace(data, path=str(file)) for file in (*train, *held_out))
    return Domain(name, *parts)


def _data_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and kind_of_file(p) in KINDS)


def write_split(
    domain: Domain,
    folder: Path,
    *,
    held_out_share: float,
    max_characters: int | None,
    held_out_characters: int,
) -> Split:
    """Write both parts of a domain, document by document.

    A document is held out where a hash of its text falls below the share, so that copies of one
    text are on the same side. Of a domain with a held-out file, the documents of that file are not
    trained on.

    Args:
        folder: for NAME.train.jsonl and NAME.held_out.jsonl.
        held_out_share: of documents. max_characters: of the part to train on; None is all.
        held_out_characters: of the held-out part. Held-out documents beyond it are left out.
    Raises:
        DataError: a part is empty.
    """
    own, other = (folder / f"{domain.name}.{kind}.jsonl" for kind in ("train", "held_out"))
    with _Part(own, max_characters) as train, _Part(other, held_out_characters) as held_out:
        _divide(domain, train, held_out, held_out_share)
        for name, part in (("train on", train), ("hold out", held_out)):
            if not part.number:
                raise DataError(
                    f"domain {domain.name!r} has no document to {name}; it needs more documents. "
                    "A text file is cut into lines by data.document=line"
                )
    return Split(domain.name, own, other, train.number, held_out.number, train.characters)


def _divide(domain: Domain, train: _Part, held_out: _Part, share: float) -> None:
    refused: set[bytes] = set()
    if domain.held_out is not None:
        for row in documents(domain.held_out):
            held_out.add(row)
            refused.add(_digest(row))
    for row in documents(domain.data):
        digest = _digest(row)
        if domain.held_out is not None:
            if digest not in refused:
                train.add(row)
        elif int.from_bytes(digest[:8], "big") < share * 2**64:
            held_out.add(row)
        else:
            train.add(row)
        if train.is_full and (held_out.is_full or domain.held_out is not None):
            return


class _Part:
    """A file of rows, written up to a number of characters of text; the row that reaches it is
    whole. The file appears when all is written.
    """

    def __init__(self, target: Path, limit: int | None) -> None:
        self.target, self.limit = target, limit
        self.number = self.characters = 0
        self._partial = target.with_name(target.name + ".partial")
        self._stream: Any = None

    def __enter__(self) -> _Part:
        self._stream = self._partial.open("w", encoding="utf-8", errors="replace")
        return self

    def __exit__(self, kind: Any, *error: Any) -> None:
        self._stream.close()
        if kind is None:
            self._partial.replace(self.target)
        else:
            self._partial.unlink(missing_ok=True)

    @property
    def is_full(self) -> bool:
        return self.limit is not None and self.characters >= self.limit

    def add(self, row: Row) -> None:
        """Write a row, unless the part is full."""
        if not self.is_full:
            self._stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            self.number += 1
            self.characters += len(text_of(row))


def documents(data: DataConfig) -> Iterator[Row]:
    """The rows of a domain, one by one: {"text": ...} for each document of a text file."""
    mixed = data.rows is not None or bool(data.sources)
    files = [] if mixed else text_files(Path(data.path).expanduser(), data.split)
    if not files:
        yield from stream_of(data)
        return
    number = 0
    for file in files:
        parts: list[str] = []
        for part in read_parts(file, data.document):
            parts.append(part.text)
            if part.last:
                number += 1
                if data.limit is not None and number > data.limit:
                    return
                yield {"text": "".join(parts)}
                parts = []


def text_of(row: Row) -> str:
    """The text of a row: its column text, or all of its texts with blanks between."""
    if isinstance(row.get("text"), str):
        return str(row["text"])
    return " ".join(_texts(row.values()))


def _texts(values: Any) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            yield from _texts(value.values())
        elif isinstance(value, Sequence):
            yield from _texts(value)


def _digest(row: Row) -> bytes:
    """Of the text, whatever its white space."""
    return hashlib.sha256(" ".join(text_of(row).split()).encode("utf-8", "replace")).digest()


def read_split(file: Path) -> Iterator[Row]:
    """The rows of a part."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def write_mixture(
    target: Path,
    own: Path,
    replayed: Sequence[Path],
    *,
    share: float,
    max_characters: int | None,
    seed: int,
) -> None:
    """Write the rows of a stage: its own, and rows of earlier domains that are replayed.

    Of all characters about the share is replayed, in equal parts of each earlier domain, drawn
    without replacement.

    Args:
        replayed: the parts to train on of earlier domains; share: below 1.
        max_characters: of the stage's own rows; None is all.
    """
    with _Part(target, None) as part:
        for row in read_split(own):
            part.add(row)
            if max_characters is not None and part.characters >= max_characters:
                break
        quota = share / (1 - share) * part.characters / max(len(replayed), 1)
        for number, file in enumerate(replayed):
            for row in _drawn(file, quota, np.random.default_rng((seed, number, 23))):
                part.add(row)


def _drawn(file: Path, characters: float, draw: np.random.Generator) -> Iterator[Row]:
    """Random rows of a file up to a number of characters, of which only places are in memory."""
    places = [0]
    with file.open("rb") as stream:
        for line in stream:
            places.append(places[-1] + len(line))
        for number in draw.permutation(len(places) - 1).tolist():
            if characters <= 0:
                return
            stream.seek(places[number])
            row = json.loads(stream.readline())
            characters -= len(text_of(row))
            yield row
