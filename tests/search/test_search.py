from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.search.base import Candidate, Sampler
from posttrain.search.best_of_n import best_of_n, most_likely
from posttrain.search.vote import majority_vote, sample, weighted_vote
from posttrain.types import Request, Sample, Sampling


def fixed(*texts: str, logprobs: tuple[float, ...] = ()):
    """A `generate` that always gives the same texts."""

    def generate(prompts, n, *, stop=(), max_tokens=None):
        marks = logprobs or (0.0,) * len(texts)
        return [
            [Candidate((1, 2), t, lp, True) for t, lp in zip(texts[:n], marks, strict=False)]
            for _ in prompts
        ]

    return generate


def first_word(text: str) -> str | None:
    return text.split()[0] if text.split() else None


def test_majority_and_its_ties() -> None:
    (s,) = majority_vote([(1,)], fixed("a x", "b", "a y", ""), first_word, num_samples=4)
    assert (s.answer, s.index, s.votes, s.num_tokens) == ("a", 0, {"a": 2.0, "b": 1.0}, 8)
    (s,) = majority_vote([(1,)], fixed("a", "b", logprobs=(-4.0, -2.0)), first_word, num_samples=2)
    assert s.answer == "b"  # a tie goes to the likelier
    (s,) = majority_vote([(1,)], fixed("", "", logprobs=(-4.0, -2.0)), first_word, num_samples=2)
    assert s.answer is None and s.index == 1


def test_best_and_weighted() -> None:
    points = {"a": 0.4, "a2": 0.4, "b": 0.7}

    def score(index, candidates):
        assert index == 0
        return [points[c.text] for c in candidates]

    (best,) = best_of_n([(1,)], fixed("a", "b", "a2"), lambda t: t[0], score, num_samples=3)
    (weighted,) = weighted_vote([(1,)], fixed("a", "b", "a2"), lambda t: t[0], score, num_samples=3)
    assert best.answer == "b" and weighted.answer == "a" and weighted.votes == {"a": 0.8, "b": 0.7}
    points["a2"] = -math.inf  # a candidate without a score takes nothing from its answer
    (weighted,) = weighted_vote([(1,)], fixed("a", "b", "a2"), lambda t: t[0], score, num_samples=3)
    assert weighted.answer == "b" and weighted.votes == {"a": 0.4, "b": 0.7}
    (likely,) = most_likely(
        [(1,)], fixed("a", "b", "a2", logprobs=(-3, -1, -2)), lambda t: t[0], num_samples=3
    )
    assert likely.answer == "b"
    (one,) = sample([(1,)], fixed("a", "b"), first_word)
    assert one.answer == "a" and one.num_tokens == 2


def test_kl_of_best_of_n() -> None:
    """KL(best-of-N || policy) for distinct scores is log N - (N - 1) / N nats in the limit of
    many outcomes.
    """
    for n, expected in ((2, 0.193), (4, 0.636), (16, 1.835), (64, 3.175)):
        outcomes = 200_000
        rank = np.arange(1, outcomes + 1) / outcomes
        best = rank**n - (rank - 1 / outcomes) ** n  # probability that the best of n is outcome r
        kl = float((best * np.log(np.maximum(best, 1e-300) * outcomes)).sum())
        assert kl == pytest.approx(expected, abs=2e-3)
        assert kl == pytest.approx(math.log(n) - (n - 1) / n, abs=1e-3)


def test_votes_against_a_skewed_error() -> None:
    """With a wrong answer more frequent than the right one, voting gets worse with N while
    best-of-N gets better.
    """
    draw = np.random.default_rng(0)
    wrong = np.array([0.3, 0.2, 0.13, 0.1, 0.07, 0.05])
    answers = np.array(["right", *"abcdef"])
    results = {}
    for n in (16, 64):
        votes = hits = 0
        for _ in range(400):
            texts = [str(x) for x in draw.choice(answers, size=n, p=[0.15, *wrong])]
            quality = {i: draw.normal(1.5 if t == "right" else 0.0) for i, t in enumerate(texts)}

            def score(index, candidates, quality=quality):
                return [quality[i] for i in range(len(candidates))]

            generate = fixed(*texts)
            votes += majority_vote([(1,)], generate, str, num_samples=n)[0].answer == "right"
            hits += best_of_n([(1,)], generate, str, score, num_samples=n)[0].answer == "right"
        results[n] = (votes / 400, hits / 400)
    assert results[64][0] < results[16][0] < 0.2
    assert results[64][1] > results[16][1] > 0.5


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

    def load_weights(self, version: int) -> None:
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
