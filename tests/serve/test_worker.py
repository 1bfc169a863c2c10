from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scripted_engine import ScriptedEngine

from posttrain.engines.base import Finished
from posttrain.errors import DataError
from posttrain.serve.worker import EngineWorker
from posttrain.types import Request, Sample, Sampling

Until = Callable[[Callable[[], bool]], None]


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.ids: dict[int, list[int]] = {}
        self.samples: list[Sample] | None = None
        self.error: Exception | None = None

    def tokens(self, index: int, ids: list[int], logprobs: list[float]) -> None:
        self.ids.setdefault(index, []).extend(ids)

    def finished(self, result: Finished) -> None:
        self.samples = result.samples

    def failed(self, error: Exception) -> None:
        self.error = error


def request(max_tokens: int = 5, **fields: Any) -> Request:
    return Request((7, 8), Sampling(max_tokens=max_tokens), **fields)


@pytest.fixture
def engine(tiny_tokenizer: Any) -> ScriptedEngine:
    return ScriptedEngine(tiny_tokenizer)


@pytest.fixture
def worker(engine: ScriptedEngine) -> Iterator[EngineWorker]:
    worker = EngineWorker(engine)
    worker.start()
    yield worker
    worker.stop()
    assert not worker.is_alive


def test_requests_run_side_by_side(
    worker: EngineWorker, engine: ScriptedEngine, until: Until
) -> None:
    engine.gate.clear()
    heard = [Heard() for _ in range(3)]
    for i, listener in enumerate(heard):
        worker.submit(request(n=2, seed=i), listener)
    engine.gate.set()
    until(lambda: all(h.samples is not None for h in heard))
    assert engine.most_open >= 2
    assert worker.steps <= 7
    for listener in heard:
        assert listener.samples is not None
        assert [s.ids for s in listener.samples] == [listener.ids[0], listener.ids[1]]


def test_an_abort_frees_the_rows_before_the_next_step(
    worker: EngineWorker, engine: ScriptedEngine, until: Until
) -> None:
    heard, other = Heard(), Heard()
    job = worker.submit(request(10**6), heard)
    worker.submit(request(10**6, seed=2), other)
    until(lambda: len(heard.ids.get(0, [])) > 3 and engine.num_open == 2)
    engine.gate.clear()
    worker.abort(job)
    steps, told = engine.steps, len(heard.ids[0])
    engine.gate.set()
    until(lambda: engine.num_open == 1)
    assert engine.aborted_after <= steps + 1  # one may have been running
    assert len(heard.ids[0]) == told and heard.samples is None
    assert engine.aborted == [job.ticket]
    worker.abort(job)  # again: nothing happens
    worker.run(lambda: None).result(10)
    assert engine.aborted == [job.ticket]


def test_an_abort_before_the_engine_has_it(worker: EngineWorker, engine: ScriptedEngine) -> None:
    engine.gate.clear()
    blocker = worker.submit(request(1), Heard())
    heard = Heard()
    worker.abort(worker.submit(request(), heard))
    engine.gate.set()
    worker.run(lambda: None).result(10)
    assert len(engine.requests) <= 1 and heard.samples is None
    worker.abort(blocker)


def test_a_failing_step_fails_its_requests_and_not_the_worker(
    worker: EngineWorker, engine: ScriptedEngine, until: Until
) -> None:
    engine.gate.clear()
    heard = [Heard(), Heard()]
    for listener in heard:
        worker.submit(request(), listener)
    engine.broken = RuntimeError("out of memory")
    engine.gate.set()
    until(lambda: all(isinstance(h.error, RuntimeError) for h in heard))
    engine.broken = None
    assert worker.failures >= 1 and worker.num_open == 0 and engine.num_open == 0
    again = Heard()
    worker.submit(request(), again)
    until(lambda: again.samples is not None)


def test_a_refused_request_fails_alone(
    worker: EngineWorker, engine: ScriptedEngine, until: Until
) -> None:
    heard = Heard()
    worker.submit(Request((), Sampling()), heard)
    until(lambda: heard.error is not None)
    assert isinstance(heard.error, DataError) and worker.failures == 0


def test_functions_run_in_the_engines_thread(worker: EngineWorker) -> None:
    names = worker.run(lambda: threading.current_thread().name).result(10)
    assert names == "engine"
    with pytest.raises(ZeroDivisionError):
        worker.run(lambda: 1 / 0).result(10)


def test_stopping_aborts_what_runs(tiny_tokenizer: Any, until: Until) -> None:
    engine = ScriptedEngine(tiny_tokenizer)
    worker = EngineWorker(engine)
    worker.start()
    worker.submit(request(10**6), Heard())
    until(lambda: engine.num_open == 1)
    worker.stop()
    assert engine.num_open == 0 and not worker.is_alive


def test_a_closed_worker_ends_what_runs_and_what_comes(
    worker: EngineWorker, engine: ScriptedEngine, until: Until
) -> None:
    running, late = Heard(), Heard()
    worker.submit(request(10**6), running)
    until(lambda: engine.num_open == 1)
    error = RuntimeError("closing")
    worker.close(error)
    worker.submit(request(), late)
    until(lambda: late.error is error)
    assert running.error is error and engine.num_open == 0 and len(engine.requests) == 1
