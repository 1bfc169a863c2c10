"""Bounds of rows: quotas of shared budgets, and deadlines; then both in an engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from posttrain.budget import Budget
from posttrain.engines.bounds import Bound, over_quota, spend
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sample, Sampling

Build = Callable[[str], LanguageModel]
SAMPLING = Sampling(max_tokens=20)
IDS = (3, 4, 5)


def test_rows_beyond_what_is_left_may_not_write() -> None:
    small, large = Budget(max_tokens=3), Budget(max_tokens=9)
    bounds = [Bound(small), Bound(small), None, Bound(large), Bound(small), Bound()]
    assert over_quota(enumerate(bounds)) == []
    spend(bounds)
    assert (small.num_tokens, large.num_tokens) == (3, 1)
    assert over_quota(enumerate(bounds)) == [0, 1, 4]
    assert [b and b.reason for b in bounds[:4]] == ["budget", "budget", None, None]


def test_a_deadline_runs_from_the_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1.0]
    monkeypatch.setattr("posttrain.engines.bounds.now", lambda: now[0])
    bound = Bound.of(Request(IDS, SAMPLING, deadline_seconds=2.0))
    assert bound is not None and bound.reason is None
    now[0] = 3.0
    assert bound.reason == "timeout"
    assert Bound.of(Request(IDS, SAMPLING)) is None


def drained(engine: TorchEngine) -> dict[int, list[Sample]]:
    results: dict[int, list[Sample]] = {}
    while engine.num_open:
        results |= {f.ticket: f.samples for f in engine.step()}
    return results


@pytest.fixture(params=["llama", "mamba"])
def engine(decoder: Build, request: pytest.FixtureRequest) -> TorchEngine:
    return TorchEngine(decoder(request.param), max_rows=4)


def test_tokens_are_never_exceeded_and_samples_keep_their_ids(engine: TorchEngine) -> None:
    free = engine.generate([Request(IDS, SAMPLING, n=6, seed=5)])[0]
    budget = Budget(max_tokens=50)
    bounded = Request(IDS, SAMPLING, n=6, seed=5, budget=budget)
    beside = Request((8, 9), SAMPLING, seed=1)
    samples, (other,) = engine.generate([bounded, beside])
    lengths = [len(sample.ids) for sample in samples]
    assert sum(lengths) == budget.num_tokens == 50 and len(other.ids) == 20
    for sample, whole in zip(samples, free, strict=True):
        assert sample.ids == whole.ids[: len(sample.ids)]
        assert sample.finish_reason == ("length" if len(sample.ids) == 20 else "budget")
    assert 0 in lengths  # the last one never began
    (refused,) = engine.generate([Request(IDS, SAMPLING, budget=budget)])[0]
    assert (refused.ids, refused.finish_reason) == ([], "budget")
    stats = engine.stats
    assert stats.generated_tokens == stats.returned_tokens + stats.discarded_tokens
    assert stats.prompt_tokens == stats.computed_tokens + stats.reused_tokens


def test_calls_beyond_the_limit_are_refused_as_data(engine: TorchEngine) -> None:
    budget = Budget(max_calls=1)
    first = engine.submit(Request(IDS, SAMPLING, budget=budget))
    second = engine.submit(Request(IDS, SAMPLING, n=2, budget=budget))
    (refused,) = engine.step()
    assert refused.ticket == second and refused.reused_tokens == 0
    assert [(s.ids, s.finish_reason) for s in refused.samples] == [([], "budget")] * 2
    assert len(drained(engine)[first][0].ids) == 20


def test_a_request_ends_at_its_deadline(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("posttrain.engines.bounds.now", lambda: now[0])
    late = engine.submit(Request(IDS, SAMPLING, n=2, deadline_seconds=5.0))
    free = engine.submit(Request(IDS, SAMPLING))
    for _ in range(3):
        assert engine.step() == []
    now[0] = 6.0
    (finished,) = engine.step()
    assert finished.ticket == late
    assert [(len(s.ids), s.finish_reason) for s in finished.samples] == [(3, "timeout")] * 2
    assert len(drained(engine)[free][0].ids) == 20
    with pytest.raises(ConfigError):
        engine.submit(Request(IDS, SAMPLING, deadline_seconds=0.0))
