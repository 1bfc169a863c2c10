"""Recorded decoding steps. On a CPU a trace stands in for a CUDA graph: it too repeats the
operators of one step on the memory of that step, with every number that Python knew then fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from posttrain.engines.stops import Stops
from posttrain.engines.torch import TorchEngine
from posttrain.kernels.graphs import StepGraphs
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sample, Sampling

Build = Callable[[str], LanguageModel]
PROMPTS = [tuple(range(3, 20)), tuple(range(3, 12)), tuple(range(40, 70)), (5,)]


def trace(work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
    """Repeats the operators that `work` runs, on the tensors that it runs them on."""
    graph = make_fx(work)()
    found = graph()

    def repeat() -> None:
        found.copy_(graph())

    return repeat, found


def asked(n: int = 5, **settings: Any) -> list[Request]:
    return [
        Request(p, Sampling(**{"max_tokens": 66, **settings}), n=n, seed=i)
        for i, p in enumerate(PROMPTS)
    ]


def flat(groups: list[list[Sample]]) -> list[Sample]:
    return [sample for group in groups for sample in group]


def texts(groups: list[list[Sample]]) -> list[list[int]]:
    return [sample.ids for sample in flat(groups)]


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma2", "gpt2"])
def model(decoder: Build, request: pytest.FixtureRequest) -> LanguageModel:
    return decoder(request.param)


@pytest.mark.parametrize("rows", [256, 7])
def test_recordings_change_nothing(model: LanguageModel, rows: int) -> None:
    """Prompts of unequal length, rows that end early and that join late, more columns than one
    width, sliding windows.
    """
    requests = asked(stop_ids=(11, 29))
    plain = TorchEngine(model, max_rows=rows).generate(requests)
    graphs = StepGraphs(trace)
    found = TorchEngine(model, max_rows=rows, graphs=graphs).generate(requests)
    assert texts(found) == texts(plain)
    for sample, expected in zip(flat(found), flat(plain), strict=True):
        assert sample.raw_logprobs == pytest.approx(expected.raw_logprobs, abs=2e-5)
    assert graphs.why_not is None and graphs.recorded > 2 and graphs.replayed > 20


def test_a_step_that_cannot_be_recorded_runs_by_itself(decoder: Build) -> None:
    def refuses(work: Callable[[], torch.Tensor]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    model = decoder("llama")
    graphs = StepGraphs(refuses)
    engine = TorchEngine(model, graphs=graphs)
    with pytest.warns(UserWarning, match="not from a recording"):
        assert texts(engine.generate(asked())) == texts(TorchEngine(model).generate(asked()))
    assert graphs.why_not == "RuntimeError: operation not permitted when stream is capturing"
    assert not graphs.recorded and not graphs.replayed


def test_a_recording_that_gives_other_logits_is_not_used(decoder: Build) -> None:
    def wrong(work: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        return lambda: None, work() + 0.01

    model = decoder("llama")
    graphs = StepGraphs(wrong)
    with pytest.warns(UserWarning, match="other logits"):
        assert texts(TorchEngine(model, graphs=graphs).generate(asked())) == texts(
            TorchEngine(model).generate(asked())
        )
    assert graphs.why_not is not None and "other logits" in graphs.why_not and not graphs.replayed


def test_a_recording_ends_with_its_rows(decoder: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a call was interrupted, and the next has rows of the same shape on other
    memory.
    """
    model = decoder("llama")
    graphs = StepGraphs(trace)
    engine = TorchEngine(model, graphs=graphs)
    after, calls = Stops.after, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return after(*args)

    monkeypatch.setattr(Stops, "after", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.generate([Request((5, 6, 7), Sampling(max_tokens=20), n=4)])
    request = [Request((9, 8, 4), Sampling(max_tokens=20), n=4)]
    before = graphs.recorded
    assert texts(engine.generate(request)) == texts(TorchEngine(model).generate(request))
    assert graphs.recorded == before + 1


@pytest.mark.gpu
def test_cuda_graphs_change_nothing(decoder: Build) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = decoder("qwen3")
    model.hf.cuda()
    engine = TorchEngine(model, max_rows=7)
    assert engine.graphs is not None
    plain = TorchEngine(model, max_rows=7, graphs=None)
    for sample, expected in zip(
        flat(engine.generate(asked())), flat(plain.generate(asked())), strict=True
    ):
        assert sample.raw_logprobs[:8] == pytest.approx(expected.raw_logprobs[:8], abs=1e-3)
    assert engine.graphs.why_not is None and engine.graphs.replayed > 20
