"""Votes over answers."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.search.base import Candidate
from posttrain.search.best_of_n import best_of_n
from posttrain.search.vote import majority_vote, weighted_vote


def fixed(*texts: str, logprobs: tuple[float, ...] = ()):
    """What writes always the same texts."""
    marks = logprobs or (0.0,) * len(texts)
    return lambda context, n: [
        Candidate((1, 2), t, lp, True) for t, lp in zip(texts[:n], marks, strict=False)
    ]


def first_word(text: str) -> str | None:
    return text.split()[0] if text.split() else None


def test_majority_and_its_ties(scripted, search) -> None:
    ask = scripted(fixed("a x", "b", "a y", ""))
    s = search(majority_vote((1,), ask, first_word, num_samples=4))
    assert (s.answer, s.index, s.votes, s.num_tokens) == ("a", 0, {"a": 2.0, "b": 1.0}, 8)
    ask = scripted(fixed("a", "b", logprobs=(-4.0, -2.0)))
    s = search(majority_vote((1,), ask, first_word, num_samples=2))
    assert s.answer == "b"  # a tie goes to the likelier
    ask = scripted(fixed("", "", logprobs=(-4.0, -2.0)))
    s = search(majority_vote((1,), ask, first_word, num_samples=2))
    assert s.answer is None and s.index == 1


def test_weights_outvote_numbers(scripted, scores, search) -> None:
    ask = scripted(fixed("a", "a", "b", "c"))
    score = scores(lambda c: {"a": 0.3, "b": 0.7, "c": -np.inf}[c.text])
    s = search(weighted_vote((1,), ask, first_word, score, num_samples=4))
    assert s.answer == "b" and s.votes == {"a": 0.6, "b": 0.7}
    assert [c.score for c in s.candidates] == [0.3, 0.3, 0.7, -np.inf]


def test_negative_weights_do_not_invert_a_vote(scripted, scores, search) -> None:
    """Two votes of -1 are worth less than one of -1.5 as a sum, and more by their softmax."""
    ask = scripted(fixed("a", "a", "b", "c"))
    score = scores(lambda c: {"a": -1.0, "b": -1.5, "c": -np.inf}[c.text])
    s = search(weighted_vote((1,), ask, first_word, score, num_samples=4))
    total = 2 * np.exp(-1.0) + np.exp(-1.5)
    assert s.answer == "a" and s.notes == {"softmax_weights": 1.0}
    assert s.votes == pytest.approx({"a": 2 * np.exp(-1.0) / total, "b": np.exp(-1.5) / total})
    shifted = scores(lambda c: {"a": 0.5, "b": -0.0, "c": -np.inf}[c.text])
    assert search(weighted_vote((1,), ask, first_word, shifted, num_samples=4)).notes == {}


def test_votes_against_a_skewed_error(scripted, scores, search) -> None:
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
            score = scores(lambda c: draw.normal(1.5 if c.text == "right" else 0.0))
            ask = scripted(fixed(*texts))
            votes += search(majority_vote((1,), ask, str, num_samples=n)).answer == "right"
            hits += search(best_of_n((1,), ask, str, score, num_samples=n)).answer == "right"
        results[n] = (votes / 400, hits / 400)
    assert results[64][0] < results[16][0] < 0.2
    assert results[64][1] > results[16][1] > 0.5
