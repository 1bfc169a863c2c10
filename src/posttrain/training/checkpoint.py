"""Checkpoints: complete or absent, never half written, checked when they are read, and enough for
an exact resume.

checkpoint-<step>/   the model folder as users load it (adapter or full weights, tokenizer, chat
                     template),
                     optimizer.pt (or the folder optimizer/ with the shares of several processes),
                     rng_state.pth, trainer_state.json (with the digest of every file)
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from posttrain.errors import CheckpointError
from posttrain.files import remove_partial as remove_partial
from posttrain.files import write_text_whole as write_text_whole
from posttrain.files import written_whole as written_whole
from posttrain.world import World

STATE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)$")


def save_checkpoint(
    run_folder: Path,
    step: int,
    *,
    save_model: Callable[[Path], None],
    optimizer: Any,
    state: dict[str, Any],
) -> Path:
    """Write `checkpoint-<step>`.

    Args:
        save_model: writes the model's files into a folder. state: JSON values; `read_state` gives
        them back.
    """
    folder = run_folder / f"checkpoint-{step}"
    with written_whole(folder) as partial:
        save_model(partial)
        torch.save(optimizer.state_dict(), partial / "optimizer.pt")
        _complete(partial, step, state)
    return folder


def save_shares(
    run_folder: Path,
    step: int,
    *,
    model: Any,
    optimizer: Any,
    state: dict[str, Any],
    world: World,
) -> Path:
    """Write `checkpoint-<step>` of a model in shares; all processes call it.

    Each writes its share of the optimiser's states into one folder, the main process all else.
    """
    from posttrain.training.sharded_states import write_states  # imports DCP

    folder = run_folder / f"checkpoint-{step}"
    with contextlib.ExitStack() as stack:
        partial = world.from_main(lambda: stack.enter_context(written_whole(folder)))
        write_states(optimizer, partial)
        with model.sharding.gathered():
            if world.is_main:
                model.save_for_resume(partial)
                _complete(partial, step, state)
    world.barrier()
    return folder


def _complete(partial: Path, step: int, state: dict[str, Any]) -> None:
    """Write what is left of a checkpoint: the generators, and the state with all digests."""
    torch.save(random_state(), partial / "rng_state.pth")
    # Through JSON and back, so that the digest is of what a reader will see.
    values = json.loads(json.dumps({"global_step": step, **state, "files": _digests(partial)}))
    text = json.dumps({**values, "digest": _digest_of_values(values)}, indent=1)
    (partial / STATE).write_text(text, encoding="utf-8")


def read_state(folder: Path) -> dict[str, Any]:
    """The state of a checkpoint, after every file of it was compared with its digest.

    Raises:
        CheckpointError: the checkpoint is damaged; names what is missing or differs.
    """
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{folder / STATE} cannot be read ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(state, dict) or not isinstance(state.get("files"), dict):
        raise CheckpointError(
            f"{folder / STATE} is damaged: it does not list the checkpoint's files"
        )
    digest = state.pop("digest", None)
    if digest != _digest_of_values(state):
        raise CheckpointError(
            f"{folder / STATE} is damaged: its digest differs from what was saved"
        )
    files = state.pop("files")
    try:
        now = _digests(folder)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error}") from error
    missing = sorted(files.keys() - now.keys())
    differing = sorted(name for name in files.keys() & now.keys() if files[name] != now[name])
    if missing or differing:
        what = (
            f"{missing[0]} is missing" if missing else f"{differing[0]} differs from what was saved"
        )
        raise CheckpointError(f"{folder} is damaged: {what}")
    return dict(state)


def read_values(path: Path) -> dict[str, Any]:
    """The JSON object of a file that was written whole.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}: {error})") from error
    return dict(values)


def load_checkpoint(folder: Path, optimizer: Any) -> None:
    """Restore the optimiser and the random numbers. (The model is loaded from the folder itself.)

    Raises:
        CheckpointError: the files hold something else than this model's optimiser.
    """
    try:
        if (folder / "optimizer").is_dir():
            from posttrain.training.sharded_states import read_states

            read_states(optimizer, folder)
        else:
            optimizer.load_state_dict(torch.load(folder / "optimizer.pt", weights_only=True))
        restore_random_state(torch.load(folder / "rng_state.pth", weights_only=True))
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{folder} does not fit this run's model and optimiser ({type(error).__name__}: "
            f"{error}). The checkpoint itself "
            "is whole: resume with the recipe and the version of posttrain that wrote it"
        ) from error


def checkpoints(run_folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    numbered = [
        (int(match.group(1)), path)
        for path in run_folder.glob("checkpoint-*")
        if (match := _NAME.match(path.name))
    ]
    return [path for _, path in sorted(numbered) if (path / STATE).exists()]


def prune_checkpoints(run_folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    paths = checkpoints(run_folder)
    for path in paths[: max(len(paths) - keep, 0)]:
        shutil.rmtree(path, ignore_errors=True)


def file_digest(path: Path) -> str:
    """BLAKE2b of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder but the state file, by its path there."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / STATE)
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter
        return {
            p.relative_to(folder).as_posix(): d
            for p, d in zip(paths, pool.map(file_digest, paths), strict=True)
        }


def _digest_of_values(values: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()


def random_state() -> dict[str, Any]:
    """The state of the global generators."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [list(part) if isinstance(part, tuple) else part for part in random.getstate()],
        "numpy": [
            kind,
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            position,
            has_gauss,
            gauss,
        ],
    }


def restore_random_state(saved: dict[str, Any]) -> None:
    """Set the global generators to what `random_state` gave."""
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(saved["cuda"])
    version, internal, gauss = saved["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, gauss = saved["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
