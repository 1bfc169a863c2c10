"""Answers of an engine on disk, so that an interrupted search goes on where it stopped.

The calls of a search are fixed by its seed. A search that runs again makes the same calls; those
that the journal holds are answered from it, and the rest by the engine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from posttrain.episodes.ask import ids_bytes
from posttrain.errors import ConfigError
from posttrain.types import Sample, Sampling, VersionSpan


def call_key(
    context: Sequence[int], sampling: Sampling, n: int, seed: int, num_top_logprobs: int = 0
) -> str:
    """A hash of all that fixes the samples of a call."""
    text = json.dumps([asdict(sampling), n, seed, num_top_logprobs], sort_keys=True)
    content = ids_bytes(context) + text.encode()
    return hashlib.blake2b(content, digest_size=12).hexdigest()


class Journal:
    """A file of calls and their samples, a line of JSON each.

    A last line that was not written to its end is dropped.

    Args:
        path: the file; it is continued where it is there.
        about: what the calls belong to, such as the model and the task; plain values.

    Raises:
        ConfigError: the file is about something else, or is no journal.
    """

    def __init__(self, path: str | Path, about: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._answers: dict[str, list[Sample]] = {}
        header = json.dumps({"journal": 1, "about": about}, sort_keys=True, default=str)
        end = self._read(header) if self.path.exists() else 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("r+b" if end else "wb")
        self._file.truncate(end)
        self._file.seek(end)
        if not end:
            self._write(header)

    def _read(self, header: str) -> int:
        """Read the calls; the place behind the last whole line."""
        content = self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        lines = content[:end].splitlines()
        if not lines:
            return 0
        if lines[0].decode() != header:
            raise ConfigError(
                f"{self.path} holds the calls of another search ({lines[0].decode()[:200]}); "
                "remove it, or give the model, task and settings with which it began"
            )
        for line in lines[1:]:
            call = json.loads(line)
            self._answers[call["key"]] = [_sample(values) for values in call["samples"]]
        return end

    def __len__(self) -> int:
        return len(self._answers)

    def answer(self, key: str) -> list[Sample] | None:
        """The samples of a call, where it was answered before."""
        return self._answers.get(key)

    def record(self, key: str, samples: Sequence[Sample]) -> None:
        """Write a call with its samples."""
        self._write(json.dumps({"key": key, "samples": [asdict(s) for s in samples]}))

    def _write(self, line: str) -> None:
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _sample(values: dict[str, Any]) -> Sample:
    top = [tuple((int(i), float(x)) for i, x in place) for place in values["top_logprobs"]]
    spans = tuple(VersionSpan(*span) for span in values.get("version_spans", ()))
    return Sample(**{**values, "top_logprobs": top, "version_spans": spans})
