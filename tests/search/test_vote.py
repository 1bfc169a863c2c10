"""Votes over answers."""

from __future__ import annotations

import numpy as np

from posttrain.search.base import Candidate
from posttrain.search.best_of_n import best_of_n
from posttrain.search.vote import majority_vote


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
