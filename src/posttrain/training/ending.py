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

_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Interrupted(KeyboardInterrupt):
    """The user stopped the run; the message says what is saved and how to go on."""


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
def stop_on_signal(state: State, console: Console, go_on: str) -> Iterator[None]:
    """The first SIGINT (Ctrl-C), SIGTERM or SIGHUP ends the run after the step at hand, with a
    checkpoint.

    The second ends it at once. A signal that the process was started to ignore (nohup) stays
    ignored.

    Args:
        go_on: the call that goes on with the run.

    Raises:
        Interrupted: by the second signal; says what is lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: Any) -> None:
        if state.stop:
            raise Interrupted(
                f"stopped at once, without saving. Done: {state.step} steps; last checkpoint: "
                f"{state.last_checkpoint}. "
                f"Steps after it are lost. Go on with: {go_on}"
            )
        state.stop = True
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        # A console whose terminal has gone (SIGHUP) must not keep the run from saving.
        try:
            write(
                console,
                f"\n{name}: finishing this step, then saving; press Ctrl-C again to stop at once",
            )
        except OSError:
            console.quiet = True

    before = {
        n: signal.signal(n, handle) for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
