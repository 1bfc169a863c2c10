"""Rejection of samples that begin badly."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from posttrain.errors import ConfigError
from posttrain.search.base import Candidate
from posttrain.search.best_of_n import best_of_n
from posttrain.search.speculative_rejection import speculative_rejection

LENGTH = 6


def decode(ids: Sequence[int]) -> str:
    return " ".join(str(i) for i in ids)


def growing(length: int = LENGTH):
    """Sample k writes its number again and again; a call writes at most `size` tokens."""

    def write(context, n):
        done = len(context) - 1
        first = context[1] if done else None
        size = write.size
        rows = [first] if first is not None else list(range(10, 10 + n))
        left = min(size, length - done)
        return [
            Candidate((row,) * left, decode((row,) * left), -1.0, done + left >= length)
            for row in rows
        ]

    write.size = 2
    return write


def by_number(c: Candidate) -> float:
    return float(c.ids[0] - 10 if c.ids else -1)


def test_half_is_rejected_at_each_chunk(scripted, scores, search) -> None:
    ask = scripted(growing())
    s = search(
        speculative_rejection(
            (1,), ask, str, scores(by_number), decode, num_samples=8, chunk_tokens=2
        )
    )
    assert s.index == 7 and s.text == decode((17,) * LENGTH)
    assert [len(c.ids) for c in s.candidates] == [2, 2, 2, 2, 4, 4, 6, 6]
    assert s.notes == {"num_rejected": 6.0} and s.num_tokens == 28  # of 48 of best-of-N


def test_without_rejection_it_is_best_of_n(scripted, scores, search) -> None:
    ask = scripted(growing())
    s = search(
        speculative_rejection(
            (1,), ask, str, scores(by_number), decode, num_samples=8, rejected_share=0.0
        )
    )
    whole = growing()
    whole.size = LENGTH
    best = search(best_of_n((1,), scripted(whole), str, scores(by_number), num_samples=8))
    assert (s.text, s.index) == (best.text, best.index)
    assert [c.ids for c in s.candidates] == [c.ids for c in best.candidates]


def test_finished_samples_stay_in_the_ranking(scripted, scores, search) -> None:
    """Sample 13 ends at once with the highest score: the others are rejected against it."""

    def write(context, n):
        if len(context) == 1:
            return [Candidate((10 + k,), "", -1.0, k == 3) for k in range(n)]
        return [Candidate((context[1],), "", -1.0, False)]

    ask = scripted(write)
    s = search(
        speculative_rejection(
            (1,), ask, str, scores(by_number), decode, num_samples=4, chunk_tokens=1
        )
    )
    assert s.index == 3 and s.notes["num_rejected"] == 3
    assert [len(c.ids) for c in s.candidates] == [1, 1, 2, 1]


def test_budgets_one_sample_and_settings(scripted, scores, search) -> None:
    ask = scripted(growing(), budget=16)
    s = search(speculative_rejection((1,), ask, str, scores(by_number), decode, num_samples=8))
    assert s.num_tokens == 16 and s.index == 7 and s.notes["num_rejected"] == 0
    ask = scripted(growing())
    s = search(speculative_rejection((1,), ask, str, scores(by_number), decode, num_samples=1))
    assert len(s.candidates[0].ids) == LENGTH and s.notes["num_rejected"] == 0
    with pytest.raises(ConfigError):
        search(speculative_rejection((1,), ask, str, scores(by_number), decode, rejected_share=1.0))
