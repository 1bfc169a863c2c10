"""Digests of what a run is made from: rows, tokenizer, weights, users' files. A resume compares
them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.data.forest import TokenSequence
from posttrain.models.adapters import adapter_of
from posttrain.models.load import load_config
from posttrain.sources.collect import Collector, Prompt
from posttrain.sources.rows import DataSource
from posttrain.training.checkpoint import file_digest

_MODEL_FILES = (
    "config.json",
    "adapter_config.json",
    "*.safetensors",
    "pytorch_model*.bin",
    "adapter_model.bin",
)
# Computed by the run itself from rows and reference, and rounded as its micro-batches are.
_DERIVED = "ref_logprobs"
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_digests: dict[tuple[str, int, int], str] = {}


def rows_digest(source: Any) -> dict[str, Any]:
    """Digest of the rows or prompts that a fresh source holds.

    Returns:
        {"count", "ordered", "unordered"}: two sources with equal "unordered" hold the same rows, in
        whatever order.
    """
    ordered, total, count = hashlib.blake2b(digest_size=16), 0, 0
    # The mismatched completions of KTO follow from the rows, and hold those of held-out rows too.
    parts = (
        {k: v for k, v in vars(source).items() if k != "partners"}
        if hasattr(source, "__dict__")
        else {}
    )
    for row in _rows(parts):
        digest = _digest_of_row(row)
        ordered.update(digest)
        total += int.from_bytes(digest, "little")
        count += 1
    return {
        "count": count,
        "ordered": ordered.hexdigest(),
        "unordered": f"{total % (1 << 128):032x}",
    }


def rows_difference(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """How rows changed, in words; None where they did not."""
    if saved == now:
        return None
    if saved["unordered"] == now["unordered"]:
        return f"the {now['count']} rows stand in another order"
    if saved["count"] != now["count"]:
        return f"{saved['count']} rows -> {now['count']} rows"
    return f"the content of the {now['count']} rows differs"


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of all that turns text into ids, the chat template left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        content = {
            k: v for k, v in state.items() if k not in ("truncation", "padding")
        }  # settings of the last call
    else:
        content = {
            "vocab": tokenizer.get_vocab(),
            "special": {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        }
    return _hex(json.dumps(content, sort_keys=True).encode())


def weights_digest(place: str, **shared: Any) -> str | None:
    """Digest of a model's config and weights: of a folder its files', of a hub id its commit; None
    where unknown.

    Args:
        shared: revision, trust_remote_code, as in `load_config`.
    """
    folder = Path(place)
    if not folder.is_dir():
        commit = getattr(load_config(place, **shared), "_commit_hash", None)
        return None if commit is None else f"commit {commit}"
    digest = hashlib.blake2b(digest_size=16)
    adapter = adapter_of(place)
    if adapter is not None:
        digest.update(str(weights_digest(adapter["base_model_name_or_path"], **shared)).encode())
    for path in sorted({p for pattern in _MODEL_FILES for p in folder.glob(pattern)}):
        digest.update(f"{path.name} {_cached_digest(path)}".encode())
    return digest.hexdigest()


def _cached_digest(path: Path) -> str:
    facts = path.stat()
    key = (str(path.resolve()), facts.st_size, facts.st_mtime_ns)
    if key not in _digests:
        _digests[key] = file_digest(path)
    return _digests[key]


def _rows(value: Any) -> Iterator[TokenSequence | Prompt]:
    """Every row below a value, in the order in which containers hold them; models and settings
    hold none.
    """
    if isinstance(value, TokenSequence | Prompt):
        yield value
    elif isinstance(value, DataSource | Collector):
        yield from _rows(vars(value))
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _rows(part)
    elif isinstance(value, Sequence) and not isinstance(
        value, str | bytes
    ):  # also those that lie on disk
        for part in value:
            if isinstance(part, int | float | str):
                break  # plain numbers or names: no rows here
            yield from _rows(part)


def _digest_of_row(row: TokenSequence | Prompt) -> bytes:
    if isinstance(row, TokenSequence):
        digest = hashlib.blake2b(row.ids.tobytes(), digest_size=16)
        digest.update(np.packbits(row.loss_mask).tobytes())
        for name in sorted(row.streams):
            if name != _DERIVED:
                digest.update(name.encode() + row.streams[name].tobytes())
        digest.update(repr(sorted(row.values.items())).encode())
        return digest.digest()
    example = row.example
    try:
        columns = json.dumps(dict(example.columns), sort_keys=True, default=_as_text)
    except (TypeError, ValueError):  # keys of several kinds, a list that holds itself
        columns = str(example.columns)
    content = (row.ids, row.gold, example.id, str(example.answer), example.completion, columns)
    text = _ADDRESS.sub("", repr(content))  # of objects that have no text of their own
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _as_text(value: Any) -> Any:
    """What JSON does not know; a set in an order that does not change between processes."""
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def _hex(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
