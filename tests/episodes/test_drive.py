"""Many coroutines on one engine: batches, seeds, failures, limits, cancellation."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from typing import Any

import pytest

from posttrain.episodes.drive import Failed, drive
from posttrain.errors import ConfigError, DataError
from posttrain.types import Sampling


def rounds(prompt: int, count: int) -> Any:
    """A program that asks `count` times, each time about what came before."""

    async def program(ask: Any) -> list[list[int]]:
        ids, written = (prompt,), []
        for _ in range(count):
            (sample,) = await ask(ids)
            written.append(sample.ids)
            ids = (*ids, *sample.ids)
        return written

    return program


def test_what_is_awaited_together_is_one_batch(engines: Any) -> None:
    engine = engines.BatchEngine()
    drive([rounds(i, 3) for i in range(5)], engine)
    assert [len(batch) for batch in engine.batches] == [5, 5, 5]
    assert [r.prompt_ids[0] for r in engine.batches[0]] == [0, 1, 2, 3, 4]


def test_coroutines_that_wait_for_each_other_still_share_a_batch(engines: Any) -> None:
    """However many callbacks lie between an answer and the next question."""
    engine = engines.BatchEngine()

    async def slow_starter(ask: Any) -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        await asyncio.gather(ask((1,)), ask((2,)))

    drive([slow_starter, rounds(7, 1)], engine)
    assert [len(batch) for batch in engine.batches] == [3]


def test_the_open_engine_gets_requests_while_others_run(engines: Any) -> None:
    engine = engines.OpenEngine(write=lambda r, k: engines.sample(range(r.prompt_ids[0])))

    async def twice(ask: Any) -> None:
        await ask((2,))
        await ask((2,))

    drive([twice, lambda ask: ask((5,))], engine)
    assert engine.steps == [[0, 1], [0, 1], [1, 2], [1, 2], [1]]
    assert not engine.open


@pytest.mark.parametrize("kind", ["BatchEngine", "OpenEngine"])
def test_results_do_not_depend_on_what_runs_beside(engines: Any, kind: str) -> None:
    def run(order: list[int], **limits: Any) -> dict[int, Any]:
        programs = [rounds(i, 1 + i % 3) for i in order]
        engine = getattr(engines, kind)()
        results = drive(programs, engine, seeds=[100 + i for i in order], **limits)
        return dict(zip(order, results, strict=True))

    whole = run(list(range(8)))
    shuffled = random.Random(0).sample(range(8), 8)
    assert run(shuffled, max_concurrent=3) == whole
    assert run([5])[5] == whole[5]


def test_branches_of_one_program_have_seeds_of_their_own(engines: Any) -> None:
    engine = engines.BatchEngine()

    delays = (0.0, 0.0)

    async def branches(ask: Any) -> None:
        async def branch(first: int, delay: float) -> None:
            await asyncio.sleep(delay)
            await ask((first,))
            await ask((first, 9))

        await asyncio.gather(branch(1, delays[0]), branch(2, delays[1]))
        await ask((1,))

    seeds = []
    for order in ((0.0, 0.02), (0.02, 0.0)):
        delays = order
        engine.batches.clear()
        drive([branches], engine, seeds=[4])
        asked = sorted((r.prompt_ids, r.seed) for batch in engine.batches for r in batch)
        seeds.append(asked)
    assert seeds[0] == seeds[1]
    assert len({seed for _, seed in seeds[0]}) == 5  # also the same prompt asked again


def test_an_exception_is_a_result(engines: Any) -> None:
    async def broken(ask: Any) -> None:
        await ask((1,))
        raise ValueError("no such game")

    async def leaves(ask: Any) -> None:
        raise SystemExit(3)

    async def cancels(ask: Any) -> None:
        raise asyncio.CancelledError

    engine = engines.BatchEngine()
    finished: list[int] = []
    first, second, third, fourth = drive(
        [broken, leaves, cancels, rounds(1, 2)], engine, on_finished=lambda i, _: finished.append(i)
    )
    assert isinstance(first, Failed) and first.reason == "ValueError: no such game"
    assert "no such game" in first.traceback and not first.timed_out
    assert isinstance(second, Failed) and isinstance(third, Failed)
    assert isinstance(fourth, list) and len(fourth) == 2
    assert sorted(finished) == [0, 1, 2, 3]
    trace = first.trace()
    assert trace.error == first.reason and trace.reward is None and not trace.has_tokens


@pytest.mark.parametrize("kind", ["BatchEngine", "OpenEngine"])
def test_a_refused_request_fails_its_own_program(engines: Any, kind: str) -> None:
    engine = getattr(engines, kind)()
    method = "generate" if kind == "BatchEngine" else "submit"
    real = getattr(engine, method)

    def refuse(asked: Any, *rest: Any) -> Any:
        if any(r.prompt_ids == (13,) for r in (asked if isinstance(asked, list) else [asked])):
            raise DataError("the prompt is unlucky")
        return real(asked, *rest)

    setattr(engine, method, refuse)
    first, second, third = drive([rounds(1, 1), rounds(13, 1), rounds(2, 1)], engine)
    assert isinstance(second, Failed) and second.reason == "DataError: the prompt is unlucky"
    assert isinstance(first, list) and isinstance(third, list)


def test_a_failed_ticket_fails_its_own_program(engines: Any) -> None:
    engine = engines.OpenEngine()
    real = engine.step

    def step() -> Any:
        done = real()
        for finished in done:
            if finished.ticket == 0:
                finished.error, finished.samples = DataError("the server is gone"), []
        return done

    engine.step = step
    first, second = drive([rounds(1, 1), rounds(2, 1)], engine)
    assert isinstance(first, Failed) and isinstance(second, list)


def test_an_engine_that_breaks_ends_the_run(engines: Any) -> None:
    for waits in (False, True):
        engine = engines.OpenEngine(waits=waits)

        def step() -> Any:
            raise RuntimeError("out of memory")

        engine.step = step
        cleaned: list[bool] = []

        async def careful(ask: Any, cleaned: list[bool] = cleaned) -> None:
            try:
                await ask((1,))
            finally:
                cleaned.append(True)

        with pytest.raises(RuntimeError, match="out of memory"):
            drive([careful, careful], engine)
        assert cleaned == [True, True] and sorted(engine.aborted) == [0, 1]


def test_max_concurrent(engines: Any) -> None:
    engine = engines.BatchEngine()
    running, most = 0, 0

    async def counted(ask: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await ask((1,))
        running -= 1

    drive([counted] * 7, engine, max_concurrent=3)
    assert most == 3 and [len(b) for b in engine.batches] == [3, 3, 1]


def test_a_program_that_takes_too_long(engines: Any) -> None:
    async def sleeps(ask: Any) -> None:
        await asyncio.sleep(60)

    async def own(ask: Any) -> None:
        raise TimeoutError("of a connection")

    first, second, third = drive(
        [sleeps, rounds(1, 1), own], engines.BatchEngine(), timeout_seconds=0.1
    )
    assert isinstance(first, Failed) and first.timed_out and first.trace().stop_reason == "timeout"
    assert isinstance(second, list)
    assert isinstance(third, Failed) and not third.timed_out


def test_a_cancelled_question_is_aborted(engines: Any) -> None:
    engine = engines.OpenEngine(write=lambda r, k: engines.sample(range(r.prompt_ids[0])))

    async def impatient(ask: Any) -> str:
        question = asyncio.ensure_future(ask((1000,)))
        await ask((2,))
        question.cancel()
        await ask((3,))
        return "went on"

    assert drive([impatient], engine) == ["went on"]
    assert engine.aborted == [1] and len(engine.steps) == 5


@pytest.mark.parametrize("waits", [False, True])
def test_a_program_that_is_late_aborts_its_request(engines: Any, waits: bool) -> None:
    engine = engines.OpenEngine(
        write=lambda r, k: engines.sample(range(r.prompt_ids[0])), waits=waits, step_seconds=0.005
    )
    first, second = drive([lambda ask: ask((10**4,)), rounds(3, 1)], engine, timeout_seconds=0.1)
    assert isinstance(first, Failed) and first.timed_out and isinstance(second, list)
    assert engine.aborted == [0] and not engine.open


@pytest.mark.parametrize("waits", [False, True])
def test_ctrl_c_aborts_all_tickets(engines: Any, waits: bool) -> None:
    engine = engines.OpenEngine(
        write=lambda r, k: engines.sample(range(10**4)), waits=waits, step_seconds=0.005
    )
    threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        drive([rounds(1, 1), rounds(2, 1)], engine)
    assert sorted(engine.aborted) == [0, 1] and not engine.open


def test_an_engine_that_waits_stops_no_coroutine(engines: Any) -> None:
    """A timer fires while the step of a served engine waits for its answer."""
    engine = engines.OpenEngine(waits=True, step_seconds=0.2)
    fired: list[float] = []

    async def timer(ask: Any) -> None:
        started = time.monotonic()
        await asyncio.sleep(0.02)
        fired.append(time.monotonic() - started)

    results = drive([timer, rounds(1, 1)], engine)
    assert isinstance(results[1], list) and fired[0] < 0.2
    assert threading.active_count() < 20


def test_streams_of_tokens(engines: Any) -> None:
    for engine in (engines.BatchEngine(), engines.OpenEngine(), engines.OpenEngine(waits=True)):
        pieces: list[tuple[int, list[int]]] = []

        def note(index: int, ids: list[int], pieces: Any = pieces) -> None:
            pieces.append((index, ids))

        async def listens(ask: Any, note: Any = note) -> list[list[int]]:
            samples = await ask((3,), n=2, on_tokens=note)
            return [s.ids for s in samples]

        (result,) = drive([listens], engine)
        streamed = [[t for i, ids in pieces if i == k for t in ids] for k in (0, 1)]
        assert streamed == result


def test_inside_an_event_loop(engines: Any) -> None:
    async def notebook() -> Any:
        return drive([rounds(1, 2)], engines.BatchEngine(), seeds=[5])

    async def broken_notebook() -> Any:
        engine = engines.OpenEngine()
        engine.step = None
        drive([rounds(1, 2)], engine)

    assert asyncio.run(notebook()) == drive([rounds(1, 2)], engines.BatchEngine(), seeds=[5])
    with pytest.raises(TypeError):
        asyncio.run(broken_notebook())


def test_sampling_of_a_call(engines: Any) -> None:
    engine = engines.BatchEngine()

    async def asks(ask: Any) -> None:
        await ask((1,), Sampling(max_tokens=3), seed=11)
        await ask((1,))

    drive([asks], engine, sampling=Sampling(max_tokens=5))
    assert [r.sampling.max_tokens for b in engine.batches for r in b] == [3, 5]
    assert engine.batches[0][0].seed == 11


def test_limits_are_checked(engines: Any) -> None:
    for wrong in ({"max_concurrent": -1}, {"timeout_seconds": -1.0}, {"seeds": [1, 2]}):
        with pytest.raises(ConfigError):
            drive([rounds(1, 1)], engines.BatchEngine(), **wrong)
    assert drive([], engines.BatchEngine()) == []


def test_the_embedded_engine(decoder: Any) -> None:
    """Two turns of several episodes are the samples of two requests each, asked by hand."""
    from posttrain.engines.torch import TorchEngine
    from posttrain.episodes.ask import call_seed
    from posttrain.types import Request

    engine = TorchEngine(decoder("llama"))
    sampling = Sampling(max_tokens=6)
    results = drive(
        [rounds(i + 3, 2) for i in range(3)], engine, sampling=sampling, seeds=[7, 8, 9]
    )
    for place, turns in enumerate(results):
        ids: tuple[int, ...] = (place + 3,)
        for turn in turns:
            request = Request(ids, sampling, seed=call_seed(7 + place, ids, 0))
            ((alone,),) = engine.generate([request])
            assert alone.ids == turn
            ids = (*ids, *turn)
