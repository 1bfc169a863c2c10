from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from scripted_engine import ScriptedEngine

from posttrain.budget import Budget
from posttrain.errors import ConfigError
from posttrain.serve.generation import BoundedEngine, Cancelled, Generation, Tokens, refusal_of
from posttrain.serve.refusal import Refusal
from posttrain.serve.worker import EngineWorker
from posttrain.types import Request, Sampling

Until = Callable[[Callable[[], bool]], None]


@pytest.fixture
def worker(tiny_tokenizer: Any) -> Iterator[EngineWorker]:
    worker = EngineWorker(ScriptedEngine(tiny_tokenizer))
    worker.start()
    yield worker
    worker.stop()


def requests(count: int = 2, max_tokens: int = 6, n: int = 2) -> list[Request]:
    return [Request((7,), Sampling(max_tokens=max_tokens), n=n, seed=i) for i in range(count)]


def test_tokens_come_before_the_samples_that_hold_them(worker: EngineWorker) -> None:
    async def run() -> None:
        written: dict[tuple[int, int], list[int]] = {}
        async with Generation(worker, requests(), 10) as generation:
            async for event in generation.events():
                if isinstance(event, Tokens):
                    written.setdefault((event.request, event.index), []).extend(event.ids)
        assert len(written) == 4 and generation.num_lost == 0
        for (request, index), ids in written.items():
            assert generation.samples[request][index].ids == ids

    asyncio.run(run())


def test_leaving_early_aborts(worker: EngineWorker, until: Until) -> None:
    async def run() -> int:
        async with Generation(worker, requests(2, max_tokens=10**6), 10) as generation:
            async for _ in generation.events():
                break
        return generation.num_lost

    assert asyncio.run(run()) > 0
    until(lambda: worker.num_open == 0)


def test_time_is_bounded(worker: EngineWorker, until: Until) -> None:
    async def run() -> None:
        async with Generation(worker, requests(1, max_tokens=10**6), 0.2) as generation:
            await generation.finish()

    with pytest.raises(Refusal) as refused:
        asyncio.run(run())
    assert refused.value.status == 504
    until(lambda: worker.num_open == 0)


def test_errors_of_users_are_400_and_others_500() -> None:
    assert refusal_of(ConfigError("top_p")).status == 400
    assert refusal_of(RuntimeError("/secret/path")).status == 500
    assert "/secret/path" not in refusal_of(RuntimeError("/secret/path")).message


def test_a_bounded_engine_counts_and_keeps_budgets(worker: EngineWorker) -> None:
    engine = BoundedEngine(worker, 8, stop_ids=frozenset({2}))
    assert engine.stop_ids == {2}
    groups = engine.generate(requests(2, max_tokens=5, n=2))
    assert [[len(s.ids) for s in group] for group in groups] == [[5, 5], [5, 5]]
    assert engine.num_tokens == 20
    budget = Budget(max_tokens=10)
    bounded = [replace(r, budget=budget) for r in requests(1, max_tokens=9, n=3)]
    (group,) = engine.generate(bounded)
    assert sum(len(s.ids) for s in group) == 10 and engine.num_tokens == 30
    (group,) = engine.generate(bounded)
    assert [(s.ids, s.finish_reason) for s in group] == [([], "budget")] * 3


def test_a_bounded_engine_bounds_the_samples_of_a_call(worker: EngineWorker) -> None:
    with pytest.raises(Refusal):
        BoundedEngine(worker, 8).generate(requests(1, n=9))
    assert worker.num_open == 0


def test_cancelling_ends_a_call_in_another_thread(worker: EngineWorker, until: Until) -> None:
    engine = BoundedEngine(worker, 8)
    raised = []

    def search() -> None:
        try:
            engine.generate(requests(1, max_tokens=10**6))
        except Cancelled as error:
            raised.append(error)

    thread = threading.Thread(target=search)
    thread.start()
    until(lambda: worker.num_open == 1)
    engine.cancel()
    thread.join(10)
    assert len(raised) == 1
    until(lambda: worker.num_open == 0)
    started = time.monotonic()
    with pytest.raises(Cancelled):
        engine.generate(requests(1))
    assert time.monotonic() - started < 5
