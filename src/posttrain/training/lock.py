"""One process at a time works in a run's folder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from posttrain.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows; the process id in the file then decides
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_held: set[Path] = set()  # by this process, which the system's locks do not keep from locking twice


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the run folder's lock. Folders that it has to make are removed again if they stay empty.

    The lock is the operating system's, on the file `.lock`: it ends with the process, however that
    ends, so a killed run leaves no lock behind. Where the file system has no locks, the process id
    in the file decides.

    Raises:
        ConfigError: another process works there; names its id and host.
    """
    folder = folder.resolve()
    created = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    if folder in _held:
        raise _refusal(folder, {"pid": os.getpid(), "host": socket.gethostname()})
    descriptor = _acquire(folder, path)
    _held.add(folder)
    try:
        yield
    finally:
        _held.discard(folder)
        path.unlink(missing_ok=True)
        os.close(descriptor)
        with contextlib.suppress(OSError):
            for place in created:  # only where nothing was written
                place.rmdir()


def _acquire(folder: Path, path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            _lock(folder, descriptor)
            if _same_file(path, descriptor):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder ended and removed the file between opening and locking
    owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, owner.encode(), 0)
    return descriptor


def _lock(folder: Path, descriptor: int) -> None:
    if fcntl is not None:
        try:
            # A record lock, which worker processes do not inherit: it ends with this process and
            # not with theirs.
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise _refusal(folder, _owner(descriptor)) from None
    owner = _owner(descriptor)
    if owner and (owner.get("host") != socket.gethostname() or _alive(owner.get("pid"))):
        raise _refusal(folder, owner)


def _owner(descriptor: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(descriptor, 1000, 0).decode())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except OSError:
        return True
    return True


def _same_file(path: Path, descriptor: int) -> bool:
    try:
        there, held = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)


def _refusal(folder: Path, owner: dict[str, Any]) -> ConfigError:
    who = f"process {owner.get('pid', '?')} on host {owner.get('host', '?')}"
    return ConfigError(
        f"{folder} is in use: {who} works in it. Wait for it or stop it; a run that has ended "
        "leaves no lock behind"
    )
