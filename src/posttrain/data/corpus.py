"""Documents of plain text, of any length, as training sequences: read, tokenised and split part
by part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from posttrain.data.encoded import Encoded, Limits
from posttrain.data.forest import TokenSequence
from posttrain.data.row_files import files_of
from posttrain.data.templates import MARGIN, PART_CHARACTERS, Tokenized, bos_id, part_ids, safe_end
from posttrain.data.text_files import opened
from posttrain.memory import without_collection

Document = Literal["paragraph", "line", "file"]

_BATCH_PARTS = 1024  # parts tokenised at a time


@dataclass(frozen=True, slots=True)
class Part:
    """Part of a document's text. first, last: whether the document begins and ends with it."""

    text: str
    first: bool
    last: bool


def text_files(path: Path, split: str) -> list[Path]:
    """The .txt files (also .gz) that a path names: itself, or those of a folder of nothing
    else; else none.
    """
    if path.is_file():
        files = [path]
    elif path.is_dir() and not any(
        (path / f"dataset_{kind}.json").exists() for kind in ("info", "dict")
    ):
        files = files_of(path, split)
    else:
        return []
    return files if all(p.name.lower().removesuffix(".gz").endswith(".txt") for p in files) else []


def read_parts(path: Path, document: Document) -> Iterator[Part]:
    """The documents of a text file in parts of about PART_CHARACTERS characters, read one after the
    other.

    A document has no line break at its end. Text of white space alone is no document.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    with opened(path) as stream:
        yield from _parts(stream, document)


def _parts(stream: Any, document: Document) -> Iterator[Part]:
    pending = ""  # of the present document, and not yet handed on
    first = True
    begins_line = True
    while line := stream.readline(PART_CHARACTERS):  # a longer line comes in several pieces
        blank = begins_line and line.endswith("\n") and not line.strip()
        begins_line = line.endswith("\n")
        if not (blank and document != "file"):
            pending += line
        if (blank and document == "paragraph") or (begins_line and document == "line"):
            yield from _ended(pending, first)
            pending, first = "", True
        while len(pending) >= 2 * PART_CHARACTERS:
            yield Part(pending[:PART_CHARACTERS], first, False)
            pending, first = pending[PART_CHARACTERS:], False
    yield from _ended(pending, first)


def _ended(text: str, first: bool) -> Iterator[Part]:
    """The last part of a document, unless the document is empty."""
    if not first or text.strip():
        yield Part(text.rstrip("\n"), first, True)


@without_collection()
def encode_documents(
    encoded: Encoded,
    parts: Iterable[Part],
    tokenizer: Any,
    limits: Limits,
    *,
    limit: int | None = None,
) -> None:
    """Documents as sequences of at most limits.max_length tokens, in memory bounded by one part.

    A document of L tokens, BOS (if the tokenizer uses one) and EOS included, has L - 1 targets:
    every token but the first, which nothing predicts. Each is in exactly one sequence
    (`encoded.split`).

    Args:
        encoded: what the sequences are added to. parts: as `read_parts` gives them. limit:
        documents at most.
    Raises:
        DataError: a document is too long and limits.truncation is "error".
    """
    ends = _Ends(tokenizer)
    writer: _Writer | None = None
    for part, ids in _tokenised(parts, tokenizer):
        if part.first:
            if limit is not None and encoded.num_rows >= limit:
                return
            writer = _Writer(encoded, str(encoded.num_rows), limits)
            encoded.num_rows += 1
            ids = ends.begun(ids)
        assert writer is not None
        writer.add(ends.ended(ids) if part.last else ids)
        if part.last:
            writer.close()


class _Ends:
    """Puts BOS and EOS where a document has none; the tokenizer is asked once."""

    def __init__(self, tokenizer: Any) -> None:
        self.bos = bos_id(tokenizer)
        self.eos = tokenizer.eos_token_id

    def begun(self, ids: np.ndarray) -> np.ndarray:
        return (
            ids
            if self.bos is None or ids[:1].tolist() == [self.bos]
            else np.concatenate([[self.bos], ids])
        )

    def ended(self, ids: np.ndarray) -> np.ndarray:
        return (
            ids
            if self.eos is None or ids[-1:].tolist() == [self.eos]
            else np.concatenate([ids, [self.eos]])
        )


def _tokenised(parts: Iterable[Part], tokenizer: Any) -> Iterator[tuple[Part, np.ndarray]]:
    """Each part with its token ids. Whole documents are tokenised many at a time."""
    batch: list[Part] = []
    characters = 0
    for part in _cut_between_tokens(parts, tokenizer):
        if isinstance(part, tuple):
            yield from _of_whole(batch, tokenizer)
            batch, characters = [], 0
            yield part
            continue
        batch.append(part)
        characters += len(part.text)
        if len(batch) >= _BATCH_PARTS or characters >= PART_CHARACTERS:
            yield from _of_whole(batch, tokenizer)
            batch, characters = [], 0
    yield from _of_whole(batch, tokenizer)


def _of_whole(batch: list[Part], tokenizer: Any) -> Iterator[tuple[Part, np.ndarray]]:
    ids = Tokenized.of(tokenizer, (part.text for part in batch)).ids if batch else {}
    for part in batch:
        yield part, np.array(ids[part.text], dtype=np.int64)


def _cut_between_tokens(
    parts: Iterable[Part], tokenizer: Any
) -> Iterator[Part | tuple[Part, np.ndarray]]:
    """Whole documents as they are; parts of longer ones moved to borders of tokens, with their
    ids.
    """
    before = held = ""
    first = True
    for part in parts:
        if part.first and part.last:
            yield part
            continue
        if part.first:
            before, held, first = "", "", True
        held += part.text
        if (
            not tokenizer.is_fast
        ):  # it does not say where tokens stand, so that it has to see the whole
            if part.last:
                yield Part(held, True, True)
            continue
        while len(held) > PART_CHARACTERS + MARGIN or (part.last and held):
            final = part.last and len(held) <= PART_CHARACTERS + MARGIN
            end = len(held) if final else safe_end(tokenizer, held, PART_CHARACTERS)
            ids = part_ids(tokenizer, before, held[:end], held[end : end + MARGIN])
            yield Part("", first, final), ids
            before, held, first = held[max(end - MARGIN, 0) : end], held[end:], False


class _Writer:
    """Adds one document to an account, its ids coming in parts."""

    def __init__(self, encoded: Encoded, row: str, limits: Limits) -> None:
        self.encoded, self.row, self.limits = encoded, row, limits
        self.splits = limits.truncation in ("auto", "split")
        self.pending = np.zeros(0, dtype=np.int64)
        self.num_parts = 0

    def add(self, ids: np.ndarray) -> None:
        self.pending = np.concatenate([self.pending, ids])
        if not self.splits:
            return
        size = self.limits.max_length
        start = 0
        while len(self.pending) - start > size:
            self._write(self.pending[start : start + size])
            start += size - 1  # the last token is the context of the next part
        self.pending = self.pending[start:]

    def close(self) -> None:
        if self.splits and self.num_parts:
            self.encoded.split += 1
            self._write(self.pending)
            return
        if not len(self.pending):
            self.encoded.masked.append(self.row)
            return
        sequence = _sequence(self.pending, self.row)
        for part in self.encoded.fitted(self.row, [sequence], self.limits, text=True):
            if part.loss_mask.any():
                self.encoded.add(part)
            else:
                self.encoded.masked.append(self.row)

    def _write(self, ids: np.ndarray) -> None:
        row = self.row if not self.num_parts else f"{self.row} part {self.num_parts + 1}"
        self.encoded.add(_sequence(ids.copy(), row))
        self.encoded.num_tokens += len(ids) - (
            self.num_parts > 0
        )  # the token of context is counted before
        self.num_parts += 1


def _sequence(ids: np.ndarray, row: str) -> TokenSequence:
    return TokenSequence(ids, np.arange(len(ids)) > 0, row=row)
