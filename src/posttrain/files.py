"""Files and folders on disk that are complete or absent: written under a temporary name,
flushed, renamed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from posttrain.errors import CheckpointError

_REPLACED = re.compile(r"\.(?P<name>.+)\.old-\d+$")
# How libraries that write files of their own report a disk that is full or cannot be written:
# safetensors in the system's words, torch's archive writer without them.
_WRITE_FAILURES = (
    "No space left",
    "os error 28",
    "inline_container",
    "PytorchStreamWriter",
    "file write failed",
)


def cache_folder() -> Path:
    """The folder of cached data: POSTTRAIN_CACHE of the environment, or ~/.cache/posttrain."""
    return Path(os.environ.get("POSTTRAIN_CACHE") or "~/.cache/posttrain").expanduser()


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Write a folder under a temporary name and rename it when it is complete.

    Yields the temporary folder. On an error it is removed and `folder` stays as it was.

    Raises:
        CheckpointError: the disk is full or the place cannot be written; names the folder and the
        free space.
    """
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        flush_tree(partial)
        if folder.exists():
            old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
            folder.rename(old)
            partial.rename(folder)
            flush(folder.parent)
            shutil.rmtree(old, ignore_errors=True)
        else:
            partial.rename(folder)
            flush(folder.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError) or any(text in str(error) for text in _WRITE_FAILURES):
            raise _not_written(folder, error) from error
        raise


def _not_written(folder: Path, error: BaseException) -> CheckpointError:
    free = shutil.disk_usage(folder.parent).free / 2**20 if folder.parent.exists() else 0
    reason = str(error).partition("\n")[0]
    return CheckpointError(
        f"could not write {folder}: {reason}. {free:.0f} MiB are free there. Nothing was left "
        "half written; "
        "earlier checkpoints are intact. Make room, then run `posttrain resume`."
    )


def write_text_whole(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a text file under a temporary name and rename it, so that readers see the old file or
    the new one.

    Args:
        errors: what becomes of text that UTF-8 cannot hold, as in `open`.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        partial.unlink(missing_ok=True)
        # "x" creates the file: it never follows a link that somebody left under this name.
        with partial.open("x", encoding="utf-8", errors=errors) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        flush(path.parent)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def move(source: Path, target: Path) -> None:
    """Rename a file or folder within its folder, durably; `target` must not exist."""
    source.rename(target)
    flush(source.parent)


def flush(path: Path) -> None:
    """Bring a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot flush folders
            raise
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Bring all that is below a folder to the disk, files first."""
    paths = [*folder.rglob("*")]
    for path in [p for p in paths if p.is_file()] + [p for p in paths if p.is_dir()] + [folder]:
        flush(path)


def remove_partial(folder: Path) -> None:
    """Clear what a killed process left in a folder: half-written files go, what it was
    replacing comes back.
    """
    for path in folder.glob(".*.old-*"):
        match = _REPLACED.match(path.name)
        if match is not None and not (folder / match["name"]).exists():
            path.rename(folder / match["name"])  # killed between the two renames
    for path in [*folder.glob(".*.partial-*"), *folder.glob(".*.old-*")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
