"""Requests in the engine as others see them: an event loop that streams, a thread that searches."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from posttrain.engines.base import Finished
from posttrain.errors import PosttrainError
from posttrain.serve.refusal import Refusal
from posttrain.serve.worker import EngineWorker, Job
from posttrain.types import Request, Sample


@dataclass(slots=True)
class Counts:
    """Tokens of one HTTP request. reused: of the prompts, those that were not computed for it.
    discarded: sampled ones that are not part of the answer.
    """

    prompt: int = 0
    reused: int = 0
    completion: int = 0
    discarded: int = 0


@dataclass(frozen=True, slots=True)
class Tokens:
    """New ids of a sample with their raw log-probs. request, index: which of the requests, and
    which sample of it.
    """

    request: int
    index: int
    ids: list[int]
    logprobs: list[float]


@dataclass(frozen=True, slots=True)
class Done:
    """All samples of a request. reused_tokens: of its prompt, see `Finished`."""

    request: int
    samples: list[Sample]
    reused_tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


class _LoopListener:
    """Passes what the engine's thread says to the queue of an event loop."""

    def __init__(
        self, number: int, loop: asyncio.AbstractEventLoop, events: asyncio.Queue[object]
    ) -> None:
        self.number = number
        self.num_tokens = 0
        self._loop = loop
        self._events = events

    def tokens(self, index: int, ids: list[int], logprobs: list[float]) -> None:
        self.num_tokens += len(ids)
        self._put(Tokens(self.number, index, ids, logprobs))

    def finished(self, result: Finished) -> None:
        self._put(Done(self.number, result.samples, result.reused_tokens))

    def failed(self, error: Exception) -> None:
        self._put(_Failed(error))

    def _put(self, event: object) -> None:
        # The loop is closed when the server has stopped; nobody waits then.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class Generation:
    """Some requests in the engine, for one answer. Use it as a context: leaving it aborts what has
    not finished.

    Args:
        seconds: how long all of it may take.
    Attributes:
        samples: of each request, empty until it has finished. num_reused: prompt tokens of those
        that have finished that were not computed for them.
    """

    def __init__(self, worker: EngineWorker, requests: Sequence[Request], seconds: float) -> None:
        self._worker = worker
        self._events: asyncio.Queue[object] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        late = _Failed(too_slow(seconds))
        self._timer = loop.call_later(seconds, self._events.put_nowait, late)
        self._listeners = [_LoopListener(i, loop, self._events) for i in range(len(requests))]
        self.samples: list[list[Sample]] = [[] for _ in requests]
        self.num_reused = 0
        self._jobs: list[Job | None] = [
            worker.submit(request, listener)
            for request, listener in zip(requests, self._listeners, strict=True)
        ]

    async def __aenter__(self) -> Generation:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Abort what has not finished."""
        self._timer.cancel()
        for job in self._jobs:
            if job is not None:
                self._worker.abort(job)
        self._jobs = [None for _ in self._jobs]

    async def events(self) -> AsyncIterator[Tokens | Done]:
        """What happens, until all requests have finished.

        Raises:
            Refusal: the engine refuses or fails.
        """
        while any(job is not None for job in self._jobs):
            event = await self._events.get()
            if isinstance(event, _Failed):
                raise refusal_of(event.error)
            if isinstance(event, Done):
                self._jobs[event.request] = None
                self.samples[event.request] = event.samples
                self.num_reused += event.reused_tokens
            if isinstance(event, Tokens | Done):
                yield event

    async def finish(self) -> list[list[Sample]]:
        """Samples of each request, once all have finished."""
        async for _ in self.events():
            pass
        return self.samples

    @property
    def num_lost(self) -> int:
        """Tokens sampled for requests that have not finished."""
        pairs = zip(self._listeners, self.samples, strict=True)
        return sum(listener.num_tokens for listener, samples in pairs if not samples)


def refusal_of(error: Exception) -> Refusal:
    """How an error of the engine is answered: a wrong input with 400, the rest with 500."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, PosttrainError):
        return Refusal(400, str(error), code="refused_by_engine")
    return Refusal(500, f"the engine failed: {type(error).__name__}", code="engine_failed")


def too_slow(seconds: float) -> Refusal:
    """504 for a request whose time is over."""
    return Refusal(
        504,
        f"the request took more than {seconds:g} seconds, which is this server's limit; ask for "
        "fewer tokens",
        code="timeout",
    )


class Cancelled(Exception):
    """The one who asked is gone, or time is over."""


class _QueueListener:
    def __init__(self, number: int, events: queue.SimpleQueue[object]) -> None:
        self.number = number
        self._events = events

    def tokens(self, index: int, ids: list[int], logprobs: list[float]) -> None:
        self._events.put(Tokens(self.number, index, ids, logprobs))

    def finished(self, result: Finished) -> None:
        self._events.put(Done(self.number, result.samples, result.reused_tokens))

    def failed(self, error: Exception) -> None:
        self._events.put(_Failed(error))


class BoundedEngine:
    """The engine as a search sees it: `generate` in another thread, which can be cancelled.

    Requests of many searches run in the engine side by side; it keeps their budgets.

    Args:
        max_samples: of one call. context_length, stop_ids: the model's. adapter: writes all
            samples.
    Attributes:
        num_tokens: sampled so far, those of aborted requests included. num_reused: prompt tokens
        of finished requests that were not computed for them. first_reused: of these, those of the
        first request.
    """

    keeps_budgets = True

    def __init__(
        self,
        worker: EngineWorker,
        max_samples: int,
        context_length: int | None = None,
        adapter: str = "",
        stop_ids: frozenset[int] = frozenset(),
    ) -> None:
        self.max_samples = max_samples
        self.context_length = context_length
        self.adapter = adapter
        self.stop_ids = stop_ids
        self.num_tokens = self.num_reused = 0
        self.first_reused: int | None = None
        self._worker = worker
        self._events: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Let the running call, and every later one, raise Cancelled. From any thread."""
        self._cancelled.set()
        self._events.put(None)

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """Samples of each request.

        Raises:
            Cancelled: `cancel` was called. Refusal: too many samples at a time, or the engine
            refuses.
        """
        self._check(requests)
        requests = [replace(request, adapter=self.adapter) for request in requests]
        jobs: dict[int, Job] = {}
        samples: list[list[Sample]] = [[] for _ in requests]
        try:
            for i, request in enumerate(requests):
                jobs[i] = self._worker.submit(request, _QueueListener(i, self._events))
            while jobs:
                event = self._events.get()
                if self._cancelled.is_set():
                    raise Cancelled
                if isinstance(event, _Failed):
                    raise refusal_of(event.error)
                if isinstance(event, Tokens):
                    self.num_tokens += len(event.ids)
                elif isinstance(event, Done):
                    del jobs[event.request]
                    samples[event.request] = event.samples
                    self.num_reused += event.reused_tokens
                    if self.first_reused is None and event.request == 0:
                        self.first_reused = event.reused_tokens
        finally:
            for job in jobs.values():
                self._worker.abort(job)
            self._events = queue.SimpleQueue()  # what still comes is of aborted requests
        return samples

    def _check(self, requests: Sequence[Request]) -> None:
        if self._cancelled.is_set():
            raise Cancelled
        count = sum(request.n for request in requests)
        if count > self.max_samples:
            raise Refusal(
                400,
                f"search: its settings ask for {count} samples at a time; at most "
                f"{self.max_samples} are allowed",
                param="search",
            )
