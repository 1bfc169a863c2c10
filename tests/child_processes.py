"""Processes that a test has started, as Linux lists them."""

from __future__ import annotations

import os
import time
from pathlib import Path


def _stat(pid: int) -> list[str]:
    """State, parent and what follows; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def alive(pid: int) -> bool:
    """Whether a process runs. One that has ended and was not waited for does not."""
    stat = _stat(pid)
    return bool(stat) and stat[0] != "Z"


def gone(pid: int, seconds: float = 30.0) -> bool:
    """Whether a process has ended, within some time."""
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def children(parent: int | None = None, module: str = "posttrain.engines.worker") -> list[int]:
    """Processes that run a module, below one of this process or another.

    parent: None is this process.
    """
    parent = os.getpid() if parent is None else parent
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or not alive(int(entry.name)):
            continue
        stat = _stat(int(entry.name))
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if stat and int(stat[1]) == parent and module.encode() in command:
            found.append(int(entry.name))
    return found
