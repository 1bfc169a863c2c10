"""What coroutines have asked an engine, and the answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from posttrain.engines.base import OnTokens
from posttrain.engines.shares import generate_within_budgets
from posttrain.errors import PosttrainError
from posttrain.types import Request, Sample

Answer = list[Sample] | BaseException


@dataclass(eq=False, slots=True)
class Asked:
    """A request, and the future that gets its samples.

    place: of the coroutine that asks. Requests of a batch are submitted in the order of these, so
    that the batch does not depend on which thread of a tool was the first. ticket: the engine's,
    once submitted. on_reused, reused_tokens: who is told of reused tokens of the prompt, and how
    many there were.
    """

    request: Request
    on_tokens: OnTokens | None
    future: asyncio.Future[list[Sample]]
    place: int = 0
    ticket: int | None = None
    dropped: bool = field(default=False)
    on_reused: Callable[[int], None] | None = None
    reused_tokens: int = 0


class Answering:
    """Hands requests of coroutines to an engine, in batches.

    An open engine (`submit`, `step`, `abort`) takes requests while it runs. One without them
    answers a batch as a whole. An engine whose `step` waits for somebody else, such as a server,
    says so by `waits = True`, and works in a thread of its own; any other works in the thread of
    the event loop.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self._is_open = hasattr(engine, "submit")
        self._pool = ThreadPoolExecutor(1, "engine") if getattr(engine, "waits", False) else None
        self._waiting: list[Asked] = []
        self._open: dict[int, Asked] = {}
        self._aborted: list[int] = []
        self._round: Future[list[tuple[Asked, Answer]]] | None = None
        self._failure: BaseException | None = None
        self._stopped = False

    async def answer(
        self,
        request: Request,
        on_tokens: OnTokens | None,
        place: int = 0,
        on_reused: Callable[[int], None] | None = None,
    ) -> list[Sample]:
        """The samples of a request. A cancelled wait aborts it."""
        if self._stopped:  # a coroutine that asks while it is cancelled
            raise asyncio.CancelledError
        future = asyncio.get_running_loop().create_future()
        asked = Asked(request, on_tokens, future, place, on_reused=on_reused)
        if self._pool is not None and on_tokens is not None:
            asked.on_tokens = _in_loop(asked.future.get_loop(), on_tokens)
        self._waiting.append(asked)
        try:
            return await asked.future
        except asyncio.CancelledError:
            self._drop(asked)
            raise

    def work(self) -> bool:
        """Submit what waits, and take a step. Returns whether a future may have been resolved.

        Raises whatever the engine itself raises, which ends the run.
        """
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        if self._stopped or self._round is not None:
            return False
        if not (self._waiting or self._open or self._aborted):
            return False
        batch, self._waiting = sorted(self._waiting, key=lambda asked: asked.place), []
        aborted, self._aborted = self._aborted, []
        if self._pool is None:
            for asked, answer in self._answers(batch, aborted):
                _resolve(asked, answer)
            return True
        loop = asyncio.get_running_loop()
        self._round = self._pool.submit(self._answers, batch, aborted)
        self._round.add_done_callback(lambda _: _wake(loop, self._finish_round))
        return False

    def stop(self) -> None:
        """Take no more steps."""
        self._stopped = True

    def close(self) -> None:
        """Abort whatever the engine still works on."""
        self._stopped = True
        if self._pool is not None:
            self._pool.shutdown()  # its step ends first: one thread owns an engine
        for ticket in [*self._open, *self._aborted]:
            self.engine.abort(ticket)
        self._open.clear()
        self._aborted.clear()

    def _drop(self, asked: Asked) -> None:
        asked.dropped = True
        if asked in self._waiting:
            self._waiting.remove(asked)
        elif asked.ticket is not None and self._open.pop(asked.ticket, None) is not None:
            self._aborted.append(asked.ticket)

    def _finish_round(self) -> None:
        finished, self._round = self._round, None
        assert finished is not None
        if (error := finished.exception()) is not None:
            self._failure = error
            return
        for asked, answer in finished.result():
            _resolve(asked, answer)

    def _answers(self, batch: list[Asked], aborted: list[int]) -> list[tuple[Asked, Answer]]:
        """One step of the engine, as the answers that it gives."""
        if not self._is_open:
            return list(zip(batch, self._generated(batch), strict=True))
        for ticket in aborted:
            self.engine.abort(ticket)
        answers: list[tuple[Asked, Answer]] = []
        for asked in batch:
            try:
                asked.ticket = self.engine.submit(asked.request, asked.on_tokens)
            except PosttrainError as error:
                answers.append((asked, error))
                continue
            self._open[asked.ticket] = asked
            if asked.dropped:  # while this thread was about to submit it
                self._drop(asked)
        if not self._open:
            return answers
        for finished in self.engine.step():
            if (owner := self._open.pop(finished.ticket, None)) is not None:
                owner.reused_tokens = finished.reused_tokens
                answers.append((owner, finished.error or finished.samples))
        return answers

    def _generated(self, batch: Sequence[Asked]) -> list[Answer]:
        """Answers of an engine that answers a batch as a whole."""
        if not batch:
            return []
        answers: list[Answer] = []
        try:
            answers += self._generate([asked.request for asked in batch])
        except PosttrainError as error:
            if len(batch) == 1:
                return [error]
            # One request that is refused does not fail those beside it.
            return [answer for asked in batch for answer in self._generated([asked])]
        for asked, samples in zip(batch, answers, strict=True):
            if asked.on_tokens is not None and isinstance(samples, list):
                for index, sample in enumerate(samples):
                    asked.on_tokens(index, sample.ids)
        return answers

    def _generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """Samples of an engine; the budgets are kept here where it does not keep them itself."""
        if getattr(self.engine, "keeps_budgets", False):
            samples: list[list[Sample]] = self.engine.generate(requests)
            return samples
        return generate_within_budgets(self.engine, requests)


def _resolve(asked: Asked, answer: Answer) -> None:
    if asked.future.done():  # its coroutine has been cancelled
        return
    if isinstance(answer, BaseException):
        asked.future.set_exception(answer)
    else:
        if asked.on_reused is not None:
            asked.on_reused(asked.reused_tokens)
        asked.future.set_result(answer)


def _in_loop(loop: asyncio.AbstractEventLoop, on_tokens: OnTokens) -> OnTokens:
    """The callback, called in the thread of the event loop."""

    def hand_over(index: int, ids: list[int]) -> None:
        _wake(loop, lambda: on_tokens(index, ids))

    return hand_over


def _wake(loop: asyncio.AbstractEventLoop, callback: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(callback)
