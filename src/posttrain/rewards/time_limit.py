"""A time limit around a call of a user's function, and a notice while it runs.

In the main thread the function runs there, because libraries such as math-verify and asyncio need
it. A thread sends the signal SIGVTALRM when the time is up; its handler raises in the function. The
same signal comes from a timer of CPU time, because a regular expression that runs for hours holds
the interpreter's lock and lets no other thread run. In any other thread, where no signal can be
handled, and on systems without the signal, the function runs in a thread of its own, which is
abandoned when the time is up.
"""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from posttrain.terminal import echo

T = TypeVar("T")

NOTICE_SECONDS = 30.0
"""After so long a notice names what is running; the next ones come at twice the time each."""

_AGAIN_SECONDS = 1.0
_LEAST_SECONDS = 0.01


class TimeLimitExceeded(BaseException):
    """The time is up. No Exception, so that a function's own `except Exception` lets it pass."""


def call_within(
    function: Callable[[], T],
    *,
    what: str,
    seconds: float,
    notice_seconds: float = NOTICE_SECONDS,
) -> T:
    """function(), for at most `seconds` (0 = no limit).

    Args:
        what: names the function in notices, such as "reward 'judge'".
    Raises:
        TimeLimitExceeded: the time is up. The function has been interrupted, or its thread
        abandoned.
    """
    watch = _Watch(what, seconds, notice_seconds)
    main = threading.current_thread() is threading.main_thread()
    if main and hasattr(signal, "pthread_kill") and hasattr(signal, "setitimer") and not _in_loop():
        return _interruptible(function, watch)
    return _abandonable(function, watch)


class _Watch:
    """How long a call has been running, and what is due: a notice, an exception."""

    def __init__(self, what: str, seconds: float, notice_seconds: float) -> None:
        self.what, self.seconds = what, seconds
        self.started = time.monotonic()
        self.deadline = self.started + seconds if seconds else float("inf")
        self.notice_seconds = notice_seconds
        self.done = threading.Event()
        self.stopped: KeyboardInterrupt | None = None  # by a second Ctrl-C

    def remaining(self) -> float:
        """Seconds until something is due."""
        due = min(self.deadline, self.started + self.notice_seconds)
        return max(due - time.monotonic(), _LEAST_SECONDS)

    def notify(self) -> None:
        """Print a notice where one is due."""
        elapsed = time.monotonic() - self.started
        if elapsed < self.notice_seconds or elapsed >= self.deadline - self.started:
            return
        self.notice_seconds *= 2
        limit = f"its limit is {self.seconds:g} s" if self.seconds else "it has no time limit"
        echo(
            f"\n{self.what} has been running for {elapsed:.0f} s; {limit} "
            "(reward_timeout_seconds). Press Ctrl-C twice to stop at once.",
            error=True,
        )

    def handle(self, number: int, frame: Any) -> None:
        """The signal handler: raises in the function once the time is up, and again each second."""
        if self.done.is_set():
            return
        self.notify()
        if self.stopped is not None:
            raise self.stopped
        if time.monotonic() >= self.deadline:
            self.deadline = time.monotonic() + _AGAIN_SECONDS  # it may have caught the exception
            raise TimeLimitExceeded


def _interruptible(function: Callable[[], T], watch: _Watch) -> T:
    main = threading.get_ident()

    def alarm() -> None:
        while not watch.done.wait(min(watch.remaining(), _AGAIN_SECONDS)):
            if watch.stopped is not None or watch.remaining() <= _LEAST_SECONDS:
                signal.pthread_kill(main, signal.SIGVTALRM)

    interrupt = signal.getsignal(signal.SIGINT)

    def interrupted(number: int, frame: Any) -> None:
        try:
            if callable(interrupt):
                interrupt(number, frame)
        except KeyboardInterrupt as stop:
            watch.stopped = stop  # raised again should the function catch it
            raise

    before = signal.signal(signal.SIGVTALRM, watch.handle)
    timer = signal.setitimer(signal.ITIMER_VIRTUAL, watch.remaining(), _AGAIN_SECONDS)
    if callable(interrupt):
        signal.signal(signal.SIGINT, interrupted)
    alarms = threading.Thread(target=alarm, name="time-limit", daemon=True)
    alarms.start()
    try:
        try:
            return function()
        finally:
            watch.done.set()
    finally:
        watch.done.set()
        # no alarm comes after the handler has gone: the signal's default ends the process
        alarms.join()
        if callable(interrupt) and signal.getsignal(signal.SIGINT) is interrupted:
            signal.signal(signal.SIGINT, interrupt)
        signal.setitimer(signal.ITIMER_VIRTUAL, *timer)
        signal.signal(signal.SIGVTALRM, before)


def _abandonable(function: Callable[[], T], watch: _Watch) -> T:
    outcome: list[tuple[bool, Any]] = []

    def work() -> None:
        try:
            outcome.append((True, function()))
        except BaseException as error:
            outcome.append((False, error))

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(work,), name=watch.what, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(min(watch.remaining(), _AGAIN_SECONDS))
        watch.notify()
        if time.monotonic() >= watch.deadline and thread.is_alive():
            # Ends a loop written in Python; a call that blocks goes on in its thread.
            kind = ctypes.py_object(TimeLimitExceeded)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), kind)
            raise TimeLimitExceeded
    finished, value = outcome[0]
    if finished:
        return value
    raise value


def _in_loop() -> bool:
    """Whether this thread runs an event loop, as a notebook's does: asyncio.run cannot nest."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
