"""The one thread that owns the engine.

Requests come in through a queue. Between two steps of the engine the thread submits what is new,
aborts what is no longer wanted, and runs functions that need the model (scoring).
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol, TypeVar

from posttrain.engines.base import Engine, Finished
from posttrain.errors import PosttrainError
from posttrain.types import Request

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


class Listener(Protocol):
    """Who waits for a request. The engine's thread calls; nothing here may block or raise."""

    def tokens(self, index: int, ids: list[int], logprobs: list[float]) -> None:
        """New token ids of sample `index`, with their raw log-probs."""

    def finished(self, result: Finished) -> None:
        """All samples, in order. Nothing is called after it."""

    def failed(self, error: Exception) -> None:
        """The request cannot be answered. Nothing is called after it."""


class Job:
    """A request on its way through the engine. ticket: the engine's number, once it has one."""

    __slots__ = ("is_open", "listener", "request", "ticket")

    def __init__(self, request: Request, listener: Listener) -> None:
        self.request = request
        self.listener = listener
        self.ticket: int | None = None
        self.is_open = True


class EngineWorker:
    """Runs an engine in a thread of its own.

    Attributes:
        steps: steps of the engine so far. failures: steps that raised; their requests failed.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.steps = 0
        self.failures = 0
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}
        self._closed: Exception | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def close(self, error: Exception) -> None:
        """End all requests, and every later one, with an error. Rows are freed before the next
        step.
        """

        def close() -> None:
            self._closed = error
            self._fail_all(error)

        self._inbox.put(close)

    def stop(self) -> None:
        """Abort everything and end the thread."""
        if self._thread.is_alive():
            self._inbox.put(self._end)
            self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def num_open(self) -> int:
        """Requests that the engine works on."""
        return len(self._jobs)

    def submit(self, request: Request, listener: Listener) -> Job:
        """Hand a request to the engine. A refusal of the engine comes as `failed`."""
        job = Job(request, listener)
        self._inbox.put(lambda: self._submit(job))
        return job

    def abort(self, job: Job) -> None:
        """Drop a request: its rows are freed before the next step. A finished one is ignored."""
        job.is_open = False
        self._inbox.put(lambda: self._abort(job))

    def run(self, function: Callable[[], T]) -> Future[T]:
        """Run a function of the model between two steps."""
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        self._inbox.put(call)
        return future

    # -- in the engine's thread

    def _loop(self) -> None:
        while not self._stopping:
            self._take_inbox(wait=not self._jobs)
            if self._jobs and not self._stopping:
                self._step()
        for job in list(self._jobs.values()):
            self._abort(job)

    def _take_inbox(self, *, wait: bool) -> None:
        """Run all commands that wait, at least one if `wait`."""
        try:
            command = self._inbox.get(block=wait)
            while True:
                command()
                command = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _end(self) -> None:
        self._stopping = True

    def _step(self) -> None:
        self.steps += 1
        try:
            finished = self.engine.step()
        except Exception as error:  # of this step's requests, not of the server
            _LOG.exception("a step of the engine failed")
            self.failures += 1
            self._fail_all(error)
            return
        for result in finished:
            self._deliver(result)

    def _deliver(self, result: Finished) -> None:
        job = self._jobs.pop(result.ticket, None)
        if job is None or not job.is_open:
            return
        job.is_open = False
        if result.error is None:
            job.listener.finished(result)
        else:
            job.listener.failed(result.error)

    def _fail_all(self, error: Exception) -> None:
        for ticket, job in list(self._jobs.items()):
            was_open, job.is_open = job.is_open, False
            try:
                self.engine.abort(ticket)
            except Exception:
                _LOG.exception("the engine cannot abort ticket %d", ticket)
            if was_open:
                job.listener.failed(error)
        self._jobs.clear()

    def _submit(self, job: Job) -> None:
        if not job.is_open:
            return
        if self._closed is not None:
            job.is_open = False
            job.listener.failed(self._closed)
            return

        def tokens(index: int, ids: list[int], logprobs: list[float]) -> None:
            if job.is_open:
                job.listener.tokens(index, ids, logprobs)

        try:
            job.ticket = self.engine.submit(job.request, on_logprobs=tokens)
        except Exception as error:
            if not isinstance(error, PosttrainError):
                _LOG.exception("the engine failed to take a request")
            job.is_open = False
            job.listener.failed(error)
            return
        self._jobs[job.ticket] = job

    def _abort(self, job: Job) -> None:
        if job.ticket is not None and self._jobs.pop(job.ticket, None) is not None:
            self.engine.abort(job.ticket)
