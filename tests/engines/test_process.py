"""An engine in another process: samples as the one here, bit for bit, and no process is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from child_processes import gone
from decoders import changed

import posttrain as pt
from posttrain.budget import Budget
from posttrain.engines.process import ProcessEngine
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, DataError, EngineLost
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sample, Sampling

PROMPTS = [tuple(range(3, 20)), (5, 6, 7), tuple(range(40, 70))]


def requests(max_tokens: int = 20, n: int = 3) -> list[Request]:
    return [Request(p, Sampling(max_tokens=max_tokens), n=n, seed=i) for i, p in enumerate(PROMPTS)]


def plain(samples: list[list[Sample]]) -> list[list[tuple[list[int], list[float], list[float]]]]:
    return [[(s.ids, s.engine_logprobs, s.raw_logprobs) for s in group] for group in samples]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return pt.load("embedded")


@pytest.fixture(scope="module")
def engine(model: LanguageModel) -> Iterator[ProcessEngine]:
    engine = ProcessEngine(model)
    engine.start()
    yield engine
    engine.close()


def test_samples_are_those_of_this_process_bit_for_bit(
    engine: ProcessEngine, model: LanguageModel
) -> None:
    here = TorchEngine(model)
    assert engine.stop_ids == here.stop_ids and engine.context_length == here.context_length
    assert plain(engine.generate(requests())) == plain(here.generate(requests()))
    sequences = [((*PROMPTS[0], 4, 5), 17), (PROMPTS[1], 1)]
    assert engine.score(sequences) == here.score(sequences)


def test_weights_go_over_whole(engine: ProcessEngine, model: LanguageModel) -> None:
    before = {n: p.detach().clone() for n, p in model.hf.named_parameters()}
    changed(model)
    engine.sync(7)
    samples = engine.generate(requests())
    assert plain(samples) == plain(TorchEngine(model).generate(requests()))
    assert {s.weights_version for group in samples for s in group} == {7}
    with torch.no_grad():
        for name, parameter in model.hf.named_parameters():
            parameter.copy_(before[name])
    engine.sync(8)
    assert plain(engine.generate(requests())) == plain(TorchEngine(model).generate(requests()))


def test_requests_are_open_side_by_side(engine: ProcessEngine, model: LanguageModel) -> None:
    heard: dict[int, list[int]] = {0: [], 1: [], 2: []}
    numbers: list[float] = []
    here = TorchEngine(model).generate(requests())
    tickets = [
        engine.submit(requests()[0], lambda index, new: heard[index].extend(new)),
        engine.submit(requests()[1], None, lambda index, new, found: numbers.extend(found)),
        engine.submit(requests()[2]),
        engine.submit(requests(max_tokens=900)[2]),
    ]
    done = {}
    while len(done) < 3:
        done |= {f.ticket: f.samples for f in engine.step()}
    assert engine.num_open == 1
    assert [[s.ids for s in done[t]] for t in tickets[:3]] == [[s.ids for s in g] for g in here]
    assert heard == {k: s.ids for k, s in enumerate(here[0])}
    expected = sorted(x for s in here[1] for x in s.raw_logprobs)
    assert sorted(numbers) == pytest.approx(expected, abs=1e-4)  # in other company here
    engine.abort(tickets[3])
    assert engine.num_open == 0 and engine.step() == []
    assert len(engine.generate(requests())) == 3


def test_weights_change_under_open_requests(engine: ProcessEngine, model: LanguageModel) -> None:
    """Another thread waits for long samples meanwhile; the new weights write the rest of them."""
    begun, results = threading.Event(), []

    def sampled() -> None:
        sampling = Sampling(max_tokens=400, stop_ids=())
        ticket = engine.submit(Request(PROMPTS[0], sampling, n=8), lambda index, new: begun.set())
        while engine.num_open:
            results.extend(f.samples for f in engine.step() if f.ticket == ticket)

    thread = threading.Thread(target=sampled)
    thread.start()
    assert begun.wait(60)
    engine.sync(9)
    thread.join()
    ((*samples,),) = results
    spans = max((s.spans for s in samples), key=len)
    assert [span.version for span in spans] == [8, 9] and spans[0].end == spans[1].start > 0


def test_adapters_go_over_alone() -> None:
    model = pt.load("embedded", lora=pt.LoRA())
    engine = ProcessEngine(model)
    try:
        engine.start()
        assert all("lora" in place.name for place in engine._weights.places)
        with torch.no_grad():
            for parameter in model.trainable_parameters():
                parameter.add_(0.05)
        engine.sync(3)
        assert plain(engine.generate(requests())) == plain(TorchEngine(model).generate(requests()))
    finally:
        engine.close()


def test_what_cannot_be_sampled_is_refused(engine: ProcessEngine) -> None:
    with pytest.raises(DataError, match="empty"):
        engine.submit(Request((), Sampling()))
    with pytest.raises(ConfigError, match="budget"):
        engine.generate([Request((1,), Sampling(), budget=Budget(max_tokens=3))])
    with pytest.raises(ConfigError, match="num_threads is -1"):
        ProcessEngine(engine.model, num_threads=-1)


def test_a_process_that_dies_is_named(model: LanguageModel) -> None:
    engine = ProcessEngine(model)
    engine.start()
    pid = engine.pid
    assert pid is not None
    engine.submit(requests()[0])
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(EngineLost, match=f"{pid} has died .by signal SIGKILL") as lost:
        while engine.num_open:
            engine.step()
    assert lost.value.pid == pid and lost.value.code == -signal.SIGKILL
    with pytest.raises(EngineLost):
        engine.sync(3)
    engine.close()
    assert gone(pid)


def test_no_process_is_left(model: LanguageModel, tmp_path: Path) -> None:
    """A program that is killed takes the engine's process with it."""
    engine = ProcessEngine(model)
    engine.start()
    pid = engine.pid
    assert pid is not None
    engine.close()
    engine.close()
    assert gone(pid) and engine.pid is None
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, posttrain as pt\n"
        "from posttrain.engines.process import ProcessEngine\n"
        "engine = ProcessEngine(pt.load('embedded'))\n"
        "engine.start()\n"
        "print(engine.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    assert ended.returncode == -signal.SIGKILL and gone(int(ended.stdout))
