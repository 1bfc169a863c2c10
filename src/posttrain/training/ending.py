"""How a run ends: by a signal, after the step at hand, and with its files closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from posttrain.terminal import write
from posttrain.training.loop import State


@contextmanager
def closing(hooks: Sequence[Any]) -> Iterator[None]:
    """Close the hooks that can be closed, whatever happens."""
    try:
        yield
    finally:
        for hook in hooks:
            close = getattr(hook, "close", None)
            if close is not None:
                close()


@contextmanager
def stop_on_signal(state: State, console: Console) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) ends the run after the step at hand, with a checkpoint; the second ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if state.stop:
            raise KeyboardInterrupt
        state.stop = True
        write(console, "\nfinishing this step, then saving; press Ctrl-C again to stop at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
