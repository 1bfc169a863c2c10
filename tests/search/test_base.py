"""The sampler of a search counts tokens and draws fresh seeds."""

from __future__ import annotations

from posttrain.search.base import Sampler
from posttrain.types import Request, Sample, Sampling


class Recorder:
    """An engine that remembers what it was asked."""

    weights_version = 0

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def generate(self, requests):
        self.requests += requests
        return [[Sample([5], [-1.0], [-1.0], "stop") for _ in range(r.n)] for r in requests]

    def score(self, sequences):
        return []

    def sync(self, version: int) -> None:
        self.weights_version = version


def test_sampler_draws_fresh_seeds_each_call() -> None:
    engine = Recorder()
    sampler = Sampler(engine, lambda s: "x", Sampling(max_tokens=9), [10, 20])
    sampler([(1,), (2,)], 2)
    sampler([(1,), (2,), (3,)], 1, stop=("\n",), max_tokens=4)
    seeds = [r.seed for r in engine.requests]
    assert len(set(seeds)) == 5 and seeds[:2] == [10, 20]
    assert (
        engine.requests[-1].sampling.stop == ("\n",)
        and engine.requests[-1].sampling.max_tokens == 4
    )
    assert engine.requests[0].sampling.max_tokens == 9
