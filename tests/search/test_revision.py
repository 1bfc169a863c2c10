"""Attempts that see the earlier ones, in sequence and in parallel."""

from __future__ import annotations

import math
from typing import Any

import pytest
from spoken import Spoken, number, render, text_of

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.search.base import Selection
from posttrain.search.revision import chain_lengths, revise, revision_context, scored_revise
from posttrain.types import Sampling, Text

CHAT: Text = [{"role": "user", "content": "P"}]
AGAIN: dict[str, Any] = {"instruction": "again {problem}"}


@pytest.mark.parametrize(
    ("num_samples", "ratio", "expected"),
    [
        (8, 1.0, [3, 3, 2]),
        (8, 2.0, [4, 4]),
        (8, 8.0, [8]),
        (8, 99.0, [8]),
        (8, 1 / 8, [1] * 8),
        (8, 0.01, [1] * 8),
        (7, 1.0, [3, 2, 2]),
        (1, 1.0, [1]),
        (128, 2.0, [16] * 8),
    ],
)
def test_lengths_of_chains(num_samples: int, ratio: float, expected: list[int]) -> None:
    assert chain_lengths(num_samples, ratio) == expected
    for size in range(1, 40):
        assert sum(chain_lengths(size, ratio)) == size


def test_an_attempt_sees_the_newest_before_it(search) -> None:
    replies = {
        "P": "1",
        "P1\n\nagain P": "2",
        "P1\n\nagain P2\n\nagain P": "3",
        "P2\n\nagain P3\n\nagain P": "3",
    }
    ask = Spoken(replies)
    settings = {**AGAIN, "num_samples": 4, "sequential_ratio": 4.0, "max_context_attempts": 2}
    s = search(revise(render("P"), ask, number, "P", render, **settings))
    assert [c.context for c in ask.calls] == list(replies)
    assert (s.answer, s.votes, s.notes) == (
        "3",
        {"1": 1.0, "2": 1.0, "3": 2.0},
        {"num_chains": 1.0},
    )
    assert revision_context(CHAT, ["1", "2"], "again {problem}", 1) == [
        *CHAT,
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "again P"},
    ]


def test_chains_are_side_by_side(search) -> None:
    replies = {"P": ["1", "2"], "P1\n\nagain P": "5", "P2\n\nagain P": "5"}
    ask = Spoken(replies)
    settings = {**AGAIN, "num_samples": 4, "sequential_ratio": 1.0}
    s = search(revise(render("P"), ask, number, "P", render, **settings))
    assert [(c.context, c.n) for c in ask.calls] == [
        ("P", 2),
        ("P1\n\nagain P", 1),
        ("P2\n\nagain P", 1),
    ]
    assert [c.text for c in s.candidates] == ["1", "5", "2", "5"] and s.answer == "5"


def test_the_best_of_each_chain_votes_by_score(search, scores) -> None:
    # Chains (1, 5), (2, 5), (9, 1): the first two give 5 and 2, the third 9.
    replies = {
        "P": ["1", "2", "9"],
        "P1\n\nagain P": "5",
        "P2\n\nagain P": "5",
        "P9\n\nagain P": "1",
    }
    table = {"1": 0.3, "5": 0.4, "2": 0.1, "9": 0.7}
    score = scores(lambda c: table[c.text])
    settings = {**AGAIN, "num_samples": 6, "sequential_ratio": 2 / 3}
    ask = Spoken(replies)
    s = search(scored_revise(render("P"), ask, number, score, "P", render, **settings))
    assert s.answer == "5" and s.votes == {"5": 0.8, "9": 0.7}
    assert [c.score for c in s.candidates] == [0.3, 0.4, 0.1, 0.4, 0.7, 0.3]
    ask = Spoken(replies)
    nothing = scores(lambda c: -math.inf)
    s = search(scored_revise(render("P"), ask, number, nothing, "P", render, **settings))
    assert s.votes == {} and len(s.candidates) == 6


def test_without_chains_it_is_a_vote() -> None:
    """Exactly, on a model: the calls are the same."""
    sampling = Sampling(max_tokens=24)
    prompts = ["Q: 3+4\nA:", "Q: 12-5\nA:"]
    for one, other, scorer in (
        (pt.strategy.revise, pt.majority_vote, None),
        (pt.strategy.scored_revise, pt.weighted_vote, "length"),
    ):
        by_revision, by_vote = (
            pt.run_search("embedded", prompts, search, sampling=sampling, scorer=scorer)
            for search in (one(num_samples=4, sequential_ratio=0.1), other(num_samples=4))
        )
        for a, b in zip(by_revision, by_vote, strict=True):
            assert isinstance(a, Selection) and isinstance(b, Selection)
            assert [c.ids for c in a.candidates] == [c.ids for c in b.candidates]
            assert (a.index, a.votes, a.num_tokens) == (b.index, b.votes, b.num_tokens)


def test_settings_are_checked(search) -> None:
    for setting in (
        {"num_samples": 0},
        {"sequential_ratio": 0.0},
        {"max_context_attempts": 0},
    ):
        with pytest.raises(ConfigError, match=rf"revise.*{next(iter(setting))}"):
            search(revise((1,), Spoken({}), number, "P", render, **setting))


@pytest.mark.parametrize("budget", range(24))
def test_no_budget_is_exceeded(search, budget: int) -> None:
    ask = Spoken(lambda context: f"1{len(context)}", budget=budget)
    s = search(revise(render("P"), ask, number, "P", render, num_samples=6))
    assert ask.budget.num_tokens <= budget and (s.answer is None) == (budget == 0)
    assert all(text_of(c.context_ids).startswith("P") for c in s.candidates)
