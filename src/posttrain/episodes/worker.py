"""A thread in which the tools of one episode run, each call with a deadline.

All calls of an episode share one thread, because what an environment holds (a database connection,
a game) often belongs to the thread that made it. A call that exceeds its deadline is interrupted if
it is Python code, and its thread is abandoned; the next call gets a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import inspect
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from posttrain.rewards.time_limit import TimeLimitExceeded


@dataclass(frozen=True, slots=True)
class Called:
    """What a call gave: a value, or why there is none.

    Attributes:
        error: what the function raised, SystemExit included.
        timed_out: it took longer than its deadline.
        seconds: how long it ran.
    """

    value: Any = None
    error: BaseException | None = None
    timed_out: bool = False
    seconds: float = 0.0


class Worker:
    """Runs functions in a thread of its own, and coroutine functions on the event loop.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str = "episode") -> None:
        self.name = name
        self._thread: _Thread | None = None

    async def call(self, function: Callable[[], Any], *, seconds: float = 0.0) -> Called:
        """`function()`, for at most `seconds` (0 = no limit). What it raises is data.

        A function that returns an awaitable has it awaited, within the same time.
        """
        started = time.monotonic()
        if inspect.iscoroutinefunction(function):
            return await _awaited(function(), started, seconds)
        if self._thread is None:
            self._thread = _Thread(self.name)
        job = self._thread.submit(function)
        try:
            await asyncio.wait({job.future}, timeout=seconds or None)
        except asyncio.CancelledError:
            self._abandon()
            raise
        # The thread's own clock decides: the loop may look late, while the engine takes a step.
        if job.called is None or (seconds and job.called.seconds > seconds):
            self._abandon()
            return Called(timed_out=True, seconds=time.monotonic() - started)
        if inspect.isawaitable(job.called.value):
            return await _awaited(job.called.value, started, seconds)
        return job.called

    def close(self) -> None:
        """End the thread once it has nothing to do."""
        if self._thread is not None:
            self._thread.jobs.put(None)
            self._thread = None

    def _abandon(self) -> None:
        if self._thread is not None:
            self._thread.interrupt()
        self.close()


class _Job:
    """A function to call, and the future that wakes its caller."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.context = contextvars.copy_context()
        self.called: Called | None = None

    def run(self) -> None:
        started = time.monotonic()
        try:
            value = self.context.run(self.function)
            self.called = Called(value, seconds=time.monotonic() - started)
        except BaseException as error:  # also SystemExit: a tool does not end a run
            self.called = Called(error=error, seconds=time.monotonic() - started)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self.loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class _Thread:
    """A daemon thread that runs jobs until it is given None."""

    def __init__(self, name: str) -> None:
        self.jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._current: _Job | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[], Any]) -> _Job:
        job = _Job(function)
        self._current = job
        self.jobs.put(job)
        return job

    def interrupt(self) -> None:
        """Raise TimeLimitExceeded in the job that runs; a call that blocks in C goes on."""
        if self._current is not None and self._current.called is None:
            kind = ctypes.py_object(TimeLimitExceeded)
            ident = ctypes.c_ulong(self._thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, kind)

    def _run(self) -> None:
        with contextlib.suppress(TimeLimitExceeded):  # it may come just behind the job
            while (job := self.jobs.get()) is not None:
                job.run()
                del job  # what it holds need not live until the next one


async def _awaited(awaitable: Any, started: float, seconds: float) -> Called:
    task = asyncio.ensure_future(awaitable)
    left = max(seconds - (time.monotonic() - started), 0.0) if seconds else None
    try:
        await asyncio.wait({task}, timeout=left)
    except asyncio.CancelledError:
        task.cancel()
        raise
    elapsed = time.monotonic() - started
    if not task.done():
        task.cancel()
        return Called(timed_out=True, seconds=elapsed)
    if task.cancelled():
        return Called(error=asyncio.CancelledError("the tool was cancelled"), seconds=elapsed)
    return Called(None if task.exception() else task.result(), task.exception(), seconds=elapsed)
