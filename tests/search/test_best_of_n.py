"""The best of several completions, by a score and by their likelihood."""

from __future__ import annotations

import math

from posttrain.search.base import Candidate
from posttrain.search.best_of_n import best_of_n, most_likely
from posttrain.search.vote import sample, weighted_vote


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
