"""Training sequences that may exceed memory: a few lie in lists, many in a temporary file."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.data.forest import TokenSequence
from posttrain.errors import DataError

MEMORY_TOKENS = 1 << 22
"""Tokens that are held in memory; sequences with more in all go to a file."""

_BUFFER_BYTES = 1 << 22


class SequenceStore(Sequence[TokenSequence]):
    """A sequence of `TokenSequence`s that grows at its end, in bounded memory.

    Up to `memory_tokens` tokens lie in a list. Beyond that all lie in a file, 2 or 4 bytes and one
    bit per token, and each is read when it is asked for. What stays in memory is 16 bytes per
    sequence. The file has no name and vanishes with the process, however that ends; it is made anew
    from the data when a run is resumed, which is exact.

    Args:
        folder: where the file lies; None is the system's folder of temporary files. It is made if
        needed.
        memory_tokens: None is MEMORY_TOKENS.
    """

    def __init__(self, folder: Path | None = None, *, memory_tokens: int | None = None) -> None:
        self._folder = folder
        self._memory_tokens = MEMORY_TOKENS if memory_tokens is None else memory_tokens
        self._listed: list[TokenSequence] = []
        self._file: Any = None
        self._buffer = bytearray()
        self._written = 0
        self._starts = array("q", [0])
        self._lengths = array("i")
        self._last_trained = array("i")
        self._digest = hashlib.blake2b(digest_size=16)
        self._defaults: dict[str, float] = {}
        self.num_tokens = 0
        self.num_trained = 0

    def append(self, sequence: TokenSequence) -> None:
        """Add a sequence.

        Raises:
            DataError: the disk is full, or the folder cannot be written to.
        """
        trained = np.flatnonzero(sequence.loss_mask)
        self._lengths.append(len(sequence.ids))
        self._last_trained.append(int(sequence.ids[trained[-1]]) if len(trained) else -1)
        self.num_tokens += len(sequence.ids)
        self.num_trained += len(trained)
        if self._file is None and self.num_tokens <= self._memory_tokens:
            self._listed.append(sequence)
            return
        if self._file is None:
            self._file = self._open()
            for earlier in self._listed:
                self._write(earlier)
            self._listed = []
        self._write(sequence)

    def fill(self, stream: str, value: float) -> None:
        """Give a stream of one value to every sequence that has none of that name."""
        self._defaults[stream] = value
        for sequence in self._listed:
            self._complete(sequence)

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        if self._file is None:
            return self._listed[index]
        self._flush()
        start, stop = self._starts[index], self._starts[index + 1]
        return self._complete(read_record(os.pread(self._file.fileno(), stop - start, start)))

    def __iter__(self) -> Iterator[TokenSequence]:
        return (self[i] for i in range(len(self)))

    @property
    def on_disk(self) -> bool:
        """Whether the sequences have gone to a file."""
        return self._file is not None

    @property
    def lengths(self) -> np.ndarray:
        """int32 [S], tokens of each sequence."""
        return np.array(self._lengths, dtype=np.int32)

    @property
    def last_trained(self) -> np.ndarray:
        """int32 [S], the id of each sequence's last trained token; -1 where there is none."""
        return np.array(self._last_trained, dtype=np.int32)

    def fingerprint(self) -> str:
        """A digest of all sequences in their order."""
        digest = self._digest.copy()
        for sequence in self._listed:
            digest.update(record(sequence))
        if self._file is not None:
            digest.update(json.dumps(self._defaults, sort_keys=True).encode())
        return digest.hexdigest()

    def _open(self) -> Any:
        try:
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
            return tempfile.TemporaryFile(dir=self._folder)
        except OSError as error:
            raise self._failure(error) from error

    def _write(self, sequence: TokenSequence) -> None:
        data = record(sequence)
        self._digest.update(data)
        self._buffer += data
        self._starts.append(self._starts[-1] + len(data))
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._buffer:
                written = os.pwrite(self._file.fileno(), self._buffer, self._written)
                self._written += written
                del self._buffer[:written]
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> DataError:
        where = self._folder or Path(tempfile.gettempdir())
        return DataError(
            f"token ids of data that exceed memory cannot be written to {where}: "
            f"{error.strerror or error}. "
            "Free some space there, or set the environment variable POSTTRAIN_CACHE to a folder "
            "on another disk"
        )

    def _complete(self, sequence: TokenSequence) -> TokenSequence:
        for name, value in self._defaults.items():
            if name not in sequence.streams:
                sequence.streams[name] = np.full(len(sequence.ids), value, dtype=np.float32)
        return sequence


def record(sequence: TokenSequence) -> bytes:
    """A sequence as bytes, the same for equal sequences on every machine."""
    kind = "<u2" if int(sequence.ids.max()) < 1 << 16 and int(sequence.ids.min()) >= 0 else "<i4"
    names = sorted(sequence.streams)
    head = {
        "row": sequence.row,
        "n": len(sequence.ids),
        "ids": kind,
        "streams": names,
        "values": sequence.values,
    }
    text = json.dumps(head).encode()
    arrays = [
        sequence.ids.astype(kind).tobytes(),
        np.packbits(sequence.loss_mask).tobytes(),
        *(sequence.streams[name].astype("<f4").tobytes() for name in names),
    ]
    return b"".join([len(text).to_bytes(4, "little"), text, *arrays])


def read_record(data: bytes) -> TokenSequence:
    """What `record` wrote."""
    place = 4 + int.from_bytes(data[:4], "little")
    head = json.loads(data[4:place])
    count = head["n"]
    ids = np.frombuffer(data, head["ids"], count, place).astype(np.int64)
    place += count * int(head["ids"][-1])
    packed = np.frombuffer(data, np.uint8, (count + 7) // 8, place)
    place += len(packed)
    streams = {}
    for name in head["streams"]:
        streams[name] = np.frombuffer(data, "<f4", count, place).astype(np.float32)
        place += 4 * count
    mask = np.unpackbits(packed, count=count).astype(bool)
    return TokenSequence(ids, mask, streams, head["values"], head["row"])
