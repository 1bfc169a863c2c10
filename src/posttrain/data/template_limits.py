"""Bounds on a chat template: a template is a program, and comes with a model that someone else
made.

The sandbox of transformers keeps a template from files and from Python, but not from endless loops
and from texts that fill the memory. Here a rendering has `SECONDS` and, on Linux, `MEMORY` bytes
above what the process holds. Both are kept by the operating system and the signal of a timer, so
that a normal template runs as before.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SECONDS = 20.0
"""Longest time of one rendering; a usual one takes less than a thousandth of a second."""

MEMORY = 2**31
"""Most bytes that a rendering may add to the process."""

_LOCK = threading.RLock()


class TemplateTimeout(BaseException):
    """The time of a rendering is over. Not an Exception: a template's own handlers must not
    catch it.
    """


@contextmanager
def bounded_rendering() -> Iterator[None]:
    """Raise TemplateTimeout after SECONDS (in the main thread), and MemoryError beyond MEMORY
    (on Linux).
    """
    with _LOCK, _memory_limit(), _time_limit():
        yield


@contextmanager
def _memory_limit() -> Iterator[None]:
    if resource is None or not sys.platform.startswith("linux"):
        yield
        return
    with Path("/proc/self/statm").open("rb") as file:
        held = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = held + MEMORY
    if soft != resource.RLIM_INFINITY and soft < limit:
        yield  # the process has a tighter limit already
        return
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def _time_limit() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise TemplateTimeout

    handler = signal.signal(signal.SIGALRM, stop)
    # Once more each second, should the first have been raised where exceptions are dropped.
    before = signal.setitimer(signal.ITIMER_REAL, SECONDS, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if before[0]:
            signal.setitimer(signal.ITIMER_REAL, *before)  # somebody else's timer goes on
