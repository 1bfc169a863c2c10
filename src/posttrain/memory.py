"""Pauses of Python's garbage collector, where a program has allowed them."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_allowed = False
_depth = 0  # scopes that are open, in all threads
_was_enabled = False


def may_pause_collection(allowed: bool) -> None:
    """Allow or forbid pauses in this process; `posttrain.kernels.setup` decides. Off by default."""
    global _allowed
    _allowed = allowed


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """No search for cyclic garbage within, where the process allows it; also as a decorator.

    For code that makes many objects of which none is garbage. Python searches again whenever so
    many new ones have come, and looks at all of them: three tenths of the time in which rows become
    sequences (100,000 rows: 5.8 to 4.1 s).

    Scopes may be nested and open in several threads: the first to begin pauses the collector, and
    the last to end lets it go on as it did before.
    """
    if not _allowed:
        yield
        return
    _begin()
    try:
        yield
    finally:
        _end()


def _begin() -> None:
    global _depth, _was_enabled
    with _lock:
        if _depth == 0:
            _was_enabled = gc.isenabled()
            gc.disable()
        _depth += 1


def _end() -> None:
    global _depth
    with _lock:
        _depth -= 1
        if _depth == 0 and _was_enabled:
            gc.enable()
