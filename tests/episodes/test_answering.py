"""What coroutines have asked an engine, and the answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from posttrain.episodes.answering import Answering
from posttrain.errors import ConfigError, RewardError
from posttrain.types import Request, Sampling


def request(first: int, n: int = 1) -> Request:
    return Request((first,), Sampling(), n=n, seed=0)


def run(program: Callable[[], Awaitable[Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(program(), 30))  # type: ignore[arg-type]


async def asked(answering: Answering, *firsts: int, **options: Any) -> list[asyncio.Task[Any]]:
    """Tasks that have asked and wait. The last of them has the least place."""
    tasks = [
        asyncio.create_task(answering.answer(request(first), None, place=len(firsts) - i))
        for i, first in enumerate(firsts)
    ]
    await asyncio.sleep(0)
    return tasks


async def worked(answering: Answering, tasks: list[asyncio.Task[Any]]) -> list[Any]:
    """Steps until all have an answer or an error."""
    while not all(task.done() for task in tasks):
        answering.work()
        await asyncio.sleep(0)
    return [task.exception() or task.result()[0].ids[0] for task in tasks]


@pytest.mark.parametrize("kind", ["BatchEngine", "OpenEngine"])
def test_requests_are_handed_over_by_place_and_answered_by_asker(engines: Any, kind: str) -> None:
    engine = getattr(engines, kind)()

    async def program() -> list[Any]:
        answering = Answering(engine)
        return await worked(answering, await asked(answering, 5, 6, 7))

    assert run(program) == [5, 6, 7]
    requests = engine.batches[0] if kind == "BatchEngine" else engine.requests
    assert [r.prompt_ids[0] for r in requests] == [7, 6, 5]


def test_nothing_is_done_where_nothing_is_asked(engines: Any) -> None:
    engine = engines.BatchEngine()
    assert Answering(engine).work() is False and engine.batches == []


class Refusing:
    """Refuses prompts that begin with a 9, on its own or in a batch with others."""

    def __init__(self, engines: Any) -> None:
        self.sizes: list[int] = []
        self.inner = engines.BatchEngine()

    def generate(self, requests: Any) -> Any:
        self.sizes.append(len(requests))
        if any(r.prompt_ids[0] == 9 for r in requests):
            raise ConfigError("this prompt is refused")
        return self.inner.generate(requests)


def test_a_refused_request_does_not_fail_those_beside_it(engines: Any) -> None:
    engine = Refusing(engines)

    async def program() -> list[Any]:
        answering = Answering(engine)
        return await worked(answering, await asked(answering, 5, 9, 7))

    first, refused, last = run(program)
    assert (first, last) == (5, 7) and isinstance(refused, ConfigError)
    assert engine.sizes == [3, 1, 1, 1]


def test_an_open_engine_refuses_at_submission(engines: Any) -> None:
    class Engine(engines.OpenEngine):  # type: ignore[misc, name-defined]
        def submit(self, request: Request, on_tokens: Any = None) -> int:
            if request.prompt_ids[0] == 9:
                raise ConfigError("this prompt is refused")
            return super().submit(request, on_tokens)

    async def program() -> list[Any]:
        answering = Answering(Engine())
        return await worked(answering, await asked(answering, 9, 5))

    refused, answered = run(program)
    assert isinstance(refused, ConfigError) and answered == 5


def test_what_the_engine_finishes_with_an_error_is_raised_in_its_asker(engines: Any) -> None:
    class Engine(engines.OpenEngine):  # type: ignore[misc, name-defined]
        def step(self) -> list[Any]:
            finished = super().step()
            for one in finished:
                one.error = (
                    RewardError("lost") if self.requests[one.ticket].prompt_ids == (5,) else None
                )
            return finished

    async def program() -> list[Any]:
        answering = Answering(Engine())
        return await worked(answering, await asked(answering, 5, 6))

    lost, answered = run(program)
    assert isinstance(lost, RewardError) and answered == 6


def test_a_cancelled_wait_is_aborted_once_submitted_and_forgotten_before(engines: Any) -> None:
    engine = engines.OpenEngine()

    async def program() -> None:
        answering = Answering(engine)
        submitted, other = await asked(answering, 5, 6)
        answering.work()  # of three steps
        (waiting,) = await asked(answering, 7)
        for task in (submitted, waiting):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await worked(answering, [other])

    run(program)
    tickets = {r.prompt_ids[0]: i for i, r in enumerate(engine.requests)}
    assert engine.aborted == [tickets[5]] and 7 not in tickets


def test_an_answer_to_a_cancelled_wait_is_dropped(engines: Any) -> None:
    """An engine that answers a batch as a whole cannot abort."""
    engine = engines.BatchEngine()

    async def program() -> list[Any]:
        answering = Answering(engine)
        tasks = await asked(answering, 5, 6)
        engine.write = lambda r, k: (tasks[0].cancel(), engines.echo(r, k))[1]
        return await worked(answering, tasks[1:])

    assert run(program) == [6]


def test_tokens_are_handed_over_as_they_are_sampled(engines: Any) -> None:
    seen: list[tuple[int, list[int]]] = []

    async def program(engine: Any) -> None:
        seen.clear()
        answering = Answering(engine)
        task = asyncio.create_task(
            answering.answer(request(5, n=2), lambda index, ids: seen.append((index, list(ids))))
        )
        await asyncio.sleep(0)
        await worked(answering, [task])

    run(lambda: program(engines.OpenEngine()))
    assert seen[:2] == [(0, [5]), (1, [5])] and len(seen) == 6  # a token of each at a time
    run(lambda: program(engines.BatchEngine()))
    assert seen == [(0, [5, 0, 0]), (1, [5, 0, 1])]  # all at once


def test_an_engine_that_waits_works_in_a_thread_and_tokens_come_in_the_loops(engines: Any) -> None:
    class Engine(engines.OpenEngine):  # type: ignore[misc, name-defined]
        def step(self) -> list[Any]:
            steppers.append(threading.get_ident())
            return super().step()

    steppers: list[int] = []
    listeners: list[int] = []

    async def program() -> list[Any]:
        answering = Answering(Engine(waits=True))
        task = asyncio.create_task(
            answering.answer(request(5), lambda *_: listeners.append(threading.get_ident()))
        )
        await asyncio.sleep(0)
        answers = await worked(answering, [task])
        answering.close()
        return answers

    assert run(program) == [5]
    here = threading.get_ident()
    assert here not in steppers and len(set(steppers)) == 1 and set(listeners) == {here}


@pytest.mark.parametrize("waits", [False, True])
def test_a_failing_engine_ends_the_run(engines: Any, waits: bool) -> None:
    class Engine(engines.OpenEngine):  # type: ignore[misc, name-defined]
        def step(self) -> list[Any]:
            raise RuntimeError("broken")

    async def program() -> None:
        answering = Answering(Engine(waits=waits))
        (task,) = await asked(answering, 5)
        try:
            with pytest.raises(RuntimeError, match="broken"):
                await worked(answering, [task])
        finally:
            task.cancel()
            answering.stop()

    run(program)


def test_a_stopped_one_takes_no_step_and_no_question(engines: Any) -> None:
    engine = engines.OpenEngine()

    async def program() -> None:
        answering = Answering(engine)
        (task,) = await asked(answering, 5)
        answering.stop()
        assert answering.work() is False and not task.done()
        with pytest.raises(asyncio.CancelledError):
            await answering.answer(request(6), None)
        task.cancel()

    run(program)
    assert engine.requests == []


def test_closing_aborts_what_the_engine_still_works_on(engines: Any) -> None:
    engine = engines.OpenEngine()

    async def program() -> None:
        answering = Answering(engine)
        tasks = await asked(answering, 5, 6)
        answering.work()
        answering.close()
        for task in tasks:
            task.cancel()

    run(program)
    assert sorted(engine.aborted) == [0, 1] and engine.open == {}
