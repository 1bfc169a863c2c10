"""Checkpoints: complete or absent, never half written, and enough for an exact resume.

checkpoint-<step>/   the model folder as users load it (adapter or full weights, tokenizer, chat template),
                     optimizer.pt, rng_state.pth, trainer_state.json
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from posttrain.errors import CheckpointError

_NAME = re.compile(r"checkpoint-(\d+)$")


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Write a folder under a temporary name and rename it when it is complete.

    Yields the temporary folder. On an error it is removed and `folder` stays as it was.

    Raises:
        CheckpointError: the disk is full or the place cannot be written; names the folder and the free space.
    """
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        _flush_to_disk(partial)
        if folder.exists():
            old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
            folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            partial.rename(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        # safetensors reports a full disk as an error of its own, with the system's words in its text.
        full = "No space left" in str(error) or "os error 28" in str(error)
        if isinstance(error, OSError) or full:
            free = shutil.disk_usage(folder.parent).free / 2**20 if folder.parent.exists() else 0
            raise CheckpointError(
                f"could not write {folder}: {error}. {free:.0f} MiB are free there. Nothing was left half written; "
                "earlier checkpoints are intact. Make room, then run `posttrain resume`."
            ) from error
        raise


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file under a temporary name and rename it, so that readers see the old file or the new one."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _flush_to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def save_checkpoint(
    run_folder: Path, step: int, *, save_model: Callable[[Path], None], optimizer: Any, state: dict[str, Any]
) -> Path:
    """Write `checkpoint-<step>`.

    Args:
        save_model: writes the model's files into a folder. state: JSON values; `load_checkpoint` gives them back.
    """
    folder = run_folder / f"checkpoint-{step}"
    with written_whole(folder) as partial:
        save_model(partial)
        torch.save(optimizer.state_dict(), partial / "optimizer.pt")
        torch.save(_random_state(), partial / "rng_state.pth")
        (partial / "trainer_state.json").write_text(json.dumps({"global_step": step, **state}, indent=1))
    return folder


def load_checkpoint(folder: Path, optimizer: Any) -> dict[str, Any]:
    """Restore optimiser and random numbers; returns the saved state. (The model is loaded from the folder itself.)"""
    try:
        state: dict[str, Any] = json.loads((folder / "trainer_state.json").read_text())
        optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
        _restore_random_state(torch.load(folder / "rng_state.pth", weights_only=True))
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{folder} cannot be read ({type(error).__name__}: {error}). Remove it to resume from the one before."
        ) from error
    return state


def checkpoints(run_folder: Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = [
        (int(match.group(1)), path)
        for path in run_folder.glob("checkpoint-*")
        if (match := _NAME.match(path.name)) and (path / "trainer_state.json").is_file()
    ]
    return [path for _, path in sorted(found)]


def prune_checkpoints(run_folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for path in checkpoints(run_folder)[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def remove_partial(run_folder: Path) -> None:
    """Remove what a killed run left half written."""
    for path in [*run_folder.glob(".*.partial-*"), *run_folder.glob(".*.old-*")]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _random_state() -> dict[str, Any]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [list(part) if isinstance(part, tuple) else part for part in random.getstate()],
        "numpy": [kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss],
    }


def _restore_random_state(saved: dict[str, Any]) -> None:
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(saved["cuda"])
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, gauss = saved["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
