"""Runs a command and ends it, with all that it started, when the standard input closes.

The input is a pipe from the trainer. It closes when the trainer ends, also by SIGKILL. The file is
run as a script, and imports nothing of the package.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

GRACE_SECONDS = 10.0
"""Between the request to end and the kill."""


def guard(command: Sequence[str]) -> int:
    """Run a command until it ends or the input closes; its exit status."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_wait_for_end, args=(process,), daemon=True).start()
    status = process.wait()
    _signal(process, signal.SIGKILL)  # what is left of its group
    return status


def _wait_for_end(process: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        continue
    _signal(process, signal.SIGTERM)
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))
