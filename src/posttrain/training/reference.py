"""Log-probs of a frozen reference, computed once and kept on disk by content.

They depend on the reference's weights and on the token ids alone, so that is what they are filed
under: one folder for each model, shards of sequences in it. Runs with the same reference and data,
or some of it, find them there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from posttrain.data.forest import TokenSequence
from posttrain.files import cache_folder as cache_folder
from posttrain.files import flush
from posttrain.models.language_model import LanguageModel
from posttrain.models.scoring import scored

_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")


def fingerprint(model: LanguageModel) -> str:
    """A hash of the reference's config and weights: with fresh adapters the base's, else the
    model's as they are now.
    """
    digest = hashlib.blake2b(digest_size=16)
    config = {k: v for k, v in model.config.to_dict().items() if k not in _VOLATILE}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, parameter in model.hf.named_parameters():
        if model.base_is_reference and parameter.requires_grad:
            continue
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def as_reference(model: LanguageModel) -> AbstractContextManager[None]:
    """Within it a model that has just been loaded is its reference: without fresh adapters, or
    simply as it is.
    """
    return model.reference() if model.base_is_reference else contextlib.nullcontext()


def add_ref_logprobs(
    model: LanguageModel,
    groups: Sequence[Sequence[TokenSequence]],
    *,
    max_tokens: int,
    folder: Path | None = None,
) -> tuple[int, int]:
    """Give every sequence the stream "ref_logprobs", under a model that has just been loaded.

    Args:
        folder: where they are kept; None keeps nothing.
    Returns:
        how many sequences were found there, and how many computed.
    """
    place = None if folder is None else folder / fingerprint(model)
    cached = {} if place is None else _read(place)
    missing = [[s for s in group if _key(s) not in cached] for group in groups]
    missing = [group for group in missing if group]
    fresh: dict[bytes, np.ndarray] = {}
    with as_reference(model):
        for sequence, numbers in scored(model, missing, ("logprobs",), max_tokens=max_tokens):
            fresh[_key(sequence)] = numbers["logprobs"]
    if place is not None and fresh:
        _write(place, fresh)
    cached |= fresh
    for sequence in (s for group in groups for s in group):
        stream = np.zeros(len(sequence.ids), dtype=np.float32)
        stream[sequence.loss_mask] = cached[_key(sequence)]
        sequence.streams["ref_logprobs"] = stream
    computed = sum(len(group) for group in missing)
    return sum(len(group) for group in groups) - computed, computed


def _key(sequence: TokenSequence) -> bytes:
    digest = hashlib.blake2b(sequence.ids.tobytes(), digest_size=16)
    digest.update(np.packbits(sequence.loss_mask).tobytes())
    return digest.digest()


def _read(place: Path) -> dict[bytes, np.ndarray]:
    """All whole shards of a folder. A damaged one is removed with a warning: what it held is
    computed anew.
    """
    cached: dict[bytes, np.ndarray] = {}
    for path in sorted(place.glob("*.safetensors")):
        try:
            with safe_open(str(path), framework="numpy") as file:
                names = file.keys()  # of a file, which is no mapping
                shard = {name: file.get_tensor(name) for name in names}
                digest = (file.metadata() or {}).get("blake2b")
            if digest != _digest(shard):
                raise ValueError("its content differs from what was saved")
            ends = np.cumsum(shard["lengths"])
            parts = np.split(shard["logprobs"], ends[:-1])
            cached |= {k.tobytes(): part for k, part in zip(shard["keys"], parts, strict=True)}
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            warnings.warn(
                f"cached log-probs in {path} are damaged ({error}) and are computed anew",
                stacklevel=2,
            )
            path.unlink(missing_ok=True)
    return cached


def _digest(shard: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(shard):
        digest.update(
            f"{name} {shard[name].shape} {shard[name].dtype}".encode() + shard[name].tobytes()
        )
    return digest.hexdigest()


def _write(place: Path, fresh: dict[bytes, np.ndarray]) -> None:
    """A shard named by what it holds, complete or absent: two runs that write at once write the
    same or different files.
    """
    place.mkdir(parents=True, exist_ok=True)
    keys = sorted(fresh)
    shard: dict[str, Any] = {
        "keys": np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1),
        "lengths": np.array([len(fresh[k]) for k in keys], dtype=np.int64),
        "logprobs": np.concatenate([fresh[k] for k in keys]).astype(np.float32),
    }
    name = hashlib.blake2b(b"".join(keys), digest_size=12).hexdigest()
    partial = place / f".{name}.partial-{os.getpid()}"
    save_file(shard, partial, metadata={"blake2b": _digest(shard)})
    flush(partial)
    partial.replace(place / f"{name}.safetensors")
    flush(place)
