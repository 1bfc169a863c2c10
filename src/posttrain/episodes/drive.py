"""Runs many coroutines on one engine.

What all of them wait for together is one batch: when no coroutine can go on by itself, everything
that has been asked is submitted, and the engine takes a step. The event loop says when that is: it
waits for files and timers only when no callback is ready, so the step is taken where it would wait.
A tool in a thread, a timer and an answer of the engine each wake their own coroutine, and nobody
waits for the slowest. The engine may wait a moment for calls that have just begun
(`gather_seconds`): where all calls are that fast, its batches do not depend on the timing of
threads, and the same run gives the same numbers bit for bit.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import selectors
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from posttrain.engines.base import Engine
from posttrain.episodes.answering import Answering
from posttrain.episodes.ask import OnTokens, call_seed
from posttrain.episodes.worker import starts_of_calls
from posttrain.errors import ConfigError
from posttrain.rewards.values import described
from posttrain.types import Request, Sample, Sampling, Trace

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failed:
    """A coroutine that gave no result.

    Attributes:
        reason: the exception in one line, or that the time was over.
        timed_out: it took longer than `timeout_seconds`.
        traceback: of the exception.
        num_tokens: sampled before it failed, where its caller counts them.
    """

    reason: str
    timed_out: bool = False
    traceback: str = ""
    num_tokens: int = 0

    def trace(self) -> Trace:
        """A trace that has failed: no turns, no reward, an error."""
        return Trace(
            [], error=self.reason, stop_reason="timeout" if self.timed_out else "completed"
        )


class EngineAsk:
    """The `Ask` of one coroutine: its seeds do not depend on what else runs."""

    def __init__(self, answering: Answering, sampling: Sampling, seed: int, place: int) -> None:
        engine: Any = answering.engine
        self.sampling = sampling
        self.seed = seed
        self.context_length: int | None = getattr(engine, "context_length", None)
        self.stop_ids: frozenset[int] = getattr(engine, "stop_ids", frozenset())
        self._answering = answering
        self._place = place
        self._occurrences: Counter[tuple[int, ...]] = Counter()

    async def __call__(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling | None = None,
        n: int = 1,
        seed: int | None = None,
        on_tokens: OnTokens | None = None,
        on_reused: Callable[[int], None] | None = None,
        **fields: Any,
    ) -> list[Sample]:
        """See `Ask`.

        on_reused: called with the number of the prompt's tokens that were not computed.
        """
        ids = tuple(prompt_ids)
        if seed is None:
            seed = call_seed(self.seed, ids, self._occurrences[ids])
            self._occurrences[ids] += 1
        request = Request(ids, sampling or self.sampling, n=n, seed=seed, **fields)
        return await self._answering.answer(request, on_tokens, self._place, on_reused)


Program = Callable[[EngineAsk], Coroutine[Any, Any, T]]
"""What gives a coroutine when it is called with its `Ask`."""


def drive(
    programs: Sequence[Program[T]],
    engine: Engine,
    *,
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
    max_concurrent: int = 0,
    timeout_seconds: float = 0.0,
    gather_seconds: float = 0.0,
    on_finished: Callable[[int, T | Failed], None] | None = None,
) -> list[T | Failed]:
    """The results of coroutines that share an engine, in order.

    An exception in one of them is its result, not the end of the others. Ctrl-C and a failure of
    the engine itself end all of them, and abort what the engine still works on.

    Args:
        programs: each is called with its `Ask`.
        sampling: of calls that do not say; None = the defaults of `Sampling`.
        seeds: one per program; None = their places.
        max_concurrent: most programs that run at the same time; 0 = all.
        timeout_seconds: most time of one program, from its start; 0 = no limit.
        gather_seconds: how long a step of the engine waits for a call of a tool, from the call's
            start. A call that takes longer stops nobody else.
        on_finished: called with place and result whenever a program ends.

    Raises:
        ConfigError: a limit below 0, or not one seed per program.
    """
    if max_concurrent < 0 or timeout_seconds < 0 or gather_seconds < 0:
        raise ConfigError(
            f"max_concurrent is {max_concurrent}, timeout_seconds {timeout_seconds} and "
            f"gather_seconds {gather_seconds}; all must be at least 0"
        )
    if seeds is not None and len(seeds) != len(programs):
        raise ConfigError(f"seeds: {len(seeds)} for {len(programs)} programs; give one each")
    run = _Run(
        programs,
        Answering(engine),
        sampling or Sampling(),
        seeds if seeds is not None else range(len(programs)),
        max_concurrent or len(programs),
        timeout_seconds,
        gather_seconds,
        on_finished,
    )
    return run.in_thread() if _in_loop() else run.here()


class _Run(Generic[T]):
    """One call of `drive`."""

    def __init__(
        self,
        programs: Sequence[Program[T]],
        answering: Answering,
        sampling: Sampling,
        seeds: Sequence[int],
        max_concurrent: int,
        timeout_seconds: float,
        gather_seconds: float,
        on_finished: Callable[[int, T | Failed], None] | None,
    ) -> None:
        self.programs = programs
        self.answering = answering
        self.sampling = sampling
        self.seeds = seeds
        self.max_concurrent = max_concurrent
        self.timeout_seconds = timeout_seconds
        self.gather_seconds = gather_seconds
        self.on_finished = on_finished
        self._results: dict[int, T | Failed] = {}
        self._waiting: Iterator[int] = iter(range(len(programs)))
        self._main: asyncio.Task[None] | None = None

    def here(self) -> list[T | Failed]:
        """Run in this thread."""

        def loop() -> asyncio.AbstractEventLoop:
            return asyncio.SelectorEventLoop(_IdleSelector(self.answering, self.gather_seconds))

        try:
            with asyncio.Runner(loop_factory=loop) as runner:
                try:
                    runner.run(self._all())
                finally:
                    self.answering.stop()  # the coroutines that are cancelled now get no answers
        finally:
            self.answering.close()
        return [self._results[i] for i in range(len(self.programs))]

    def in_thread(self) -> list[T | Failed]:
        """Run in another thread: this one has an event loop already, as a notebook's does."""
        outcome: list[list[T | Failed] | BaseException] = []

        def work() -> None:
            try:
                outcome.append(self.here())
            except BaseException as error:
                outcome.append(error)

        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(work,), name="drive", daemon=True)
        thread.start()
        try:
            thread.join()
        except KeyboardInterrupt:
            if self._main is not None:
                self._main.get_loop().call_soon_threadsafe(self._main.cancel)
            thread.join()
            raise
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    async def _all(self) -> None:
        self._main = asyncio.current_task()
        lanes = [self._lane() for _ in range(min(self.max_concurrent, len(self.programs)))]
        await asyncio.gather(*lanes)

    async def _lane(self) -> None:
        """Programs one after the other, as long as some wait."""
        for place in self._waiting:
            result = await self._one(place)
            self._results[place] = result
            if self.on_finished is not None:
                self.on_finished(place, result)

    async def _one(self, place: int) -> T | Failed:
        ask = EngineAsk(self.answering, self.sampling, self.seeds[place], place)
        try:
            async with asyncio.timeout(self.timeout_seconds or None) as scope:
                return await self.programs[place](ask)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the run ends
                raise
            return _failed(error)
        except TimeoutError as error:
            if not scope.expired():
                return _failed(error)
            return Failed(f"took longer than {self.timeout_seconds:g} s", timed_out=True)
        except (Exception, SystemExit) as error:
            return _failed(error)


def _failed(error: BaseException) -> Failed:
    lines = traceback.format_exception(error, limit=-3)
    return Failed(described(error), traceback="".join(lines))


class _IdleSelector(selectors.DefaultSelector):
    """Waits for files, and lets the engine work first whenever the event loop would wait."""

    def __init__(self, answering: Answering, gather_seconds: float) -> None:
        super().__init__()
        self._answering = answering
        self._gather_seconds = gather_seconds

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        gathering = self._gathering()
        if gathering > 0:
            # The loop comes back, whether a call has ended or the time is over.
            return super().select(gathering if timeout is None else min(timeout, gathering))
        if self._answering.work():
            timeout = 0
        return super().select(timeout)

    def _gathering(self) -> float:
        """Seconds for which the engine still waits for calls of tools."""
        if not self._gather_seconds:
            return 0.0
        latest = max(starts_of_calls(asyncio.get_running_loop()), default=-math.inf)
        return latest + self._gather_seconds - time.monotonic()


def _in_loop() -> bool:
    """Whether this thread runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
