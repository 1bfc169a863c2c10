"""How a run ends: by a signal, after the step at hand, and with its files closed."""

from __future__ import annotations

import math
import signal
import threading
import time
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
def in_eval_mode(model: Any) -> Iterator[None]:
    """Leave the model in evaluation mode, whatever happens."""
    try:
        yield
    finally:
        model.eval()


@contextmanager
def resumed_as(go_on: str) -> Iterator[None]:
    """A stop within it names the call that goes on with the whole, and not with the part at hand.

    Raises:
        Interrupted: in place of any KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        text = "stopped; what is done is saved"
        if isinstance(stop, Interrupted):
            text = str(stop).partition("; go on")[0].partition(" Go on")[0].rstrip(".")
        raise Interrupted(f"{text}. Go on with: {go_on}") from stop


@contextmanager
def stop_on_signal(
    state: State, console: Console, go_on: str, *, same_seconds: float = 0.0
) -> Iterator[None]:
    """The first SIGINT (Ctrl-C), SIGTERM or SIGHUP ends the run after the step at hand, with a
    checkpoint.

    The second ends it at once. A signal that the process was started to ignore (nohup) stays
    ignored.

    Args:
        go_on: the call that goes on with the run.
        same_seconds: signals that come within so many seconds after the first are the first. A
            launcher passes the terminal's Ctrl-C on to processes that have it already.

    Raises:
        Interrupted: by the second signal; says what is lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    first = -math.inf

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        if time.monotonic() - first < same_seconds:
            return
        first = time.monotonic()
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
