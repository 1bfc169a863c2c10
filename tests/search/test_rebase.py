"""Reward-balanced search."""

from __future__ import annotations

import math

import pytest
from step_trees import PROMPT, TreeAsk, decode, digits, run, scores

from posttrain.errors import ConfigError
from posttrain.search.rebase import balanced, rebase

WIDE = digits({1: 0.25, 2: 0.25, 3: 0.25, 4: 0.25}, {1: 0.5, 2: 0.5})


def test_whole_numbers_in_proportion() -> None:
    assert balanced(8, [0.5, 0.25, 0.25]) == [4, 2, 2]
    assert balanced(3, [0.25] * 4) == [1, 1, 1, 0]  # rounding each would give none
    assert balanced(10, [0.05, 0.95]) == [1, 9] and balanced(1, [0.4, 0.6]) == [0, 1]


def test_expansions_follow_the_softmax_of_scores() -> None:
    ask = TreeAsk(WIDE, seed=2)
    score = scores(lambda c: int(c.text[0]) / 4)
    s = run(rebase(PROMPT, ask, str, score, decode, num_samples=6, balance_temperature=0.2))
    start = [int(c.text) for c in run(TreeAsk(WIDE, seed=2)(PROMPT, 6, stop=("\n",)))]
    powers = [math.exp(digit / 4 / 0.2) for digit in start]
    counts = balanced(6, [power / sum(powers) for power in powers])
    assert ask.calls[0][1] == 6 and len(set(start)) > 2
    assert [(context[1], n) for context, n, *_ in ask.calls[1:]] == [
        (digit, n) for digit, n in zip(start, counts, strict=True) if n
    ]
    assert s.notes["max_expansion"] == max(counts) > 1


def test_equal_scores_expand_each_once_and_a_cold_one_is_greedy() -> None:
    ask = TreeAsk(WIDE)
    run(rebase(PROMPT, ask, str, scores(lambda c: 0.5), decode, num_samples=5))
    assert [n for _, n, _, _ in ask.calls] == [5, 1, 1, 1, 1, 1]
    ask = TreeAsk(digits(dict.fromkeys(range(1, 9), 0.125), {1: 1.0}))
    score = scores(lambda c: int(c.text[0]))
    s = run(rebase(PROMPT, ask, str, score, decode, num_samples=5, balance_temperature=1e-3))
    best = max(context[1] for context, *_ in ask.calls[1:])
    assert {c.text[0] for c in s.candidates} == {str(best)}
    with pytest.raises(ConfigError, match="balance_temperature"):
        run(rebase(PROMPT, ask, str, score, decode, balance_temperature=0.0))


def test_votes_weigh_by_scores() -> None:
    table = {1: 0.2, 2: 0.9}
    ask = TreeAsk(digits({1: 0.5, 2: 0.5}))
    score = scores(lambda c: table[int(c.text)])
    s = run(rebase(PROMPT, ask, str, score, decode, num_samples=8))
    count = {t: sum(c.text == t for c in s.candidates) for t in ("1", "2")}
    assert s.votes == pytest.approx({t: n * table[int(t)] for t, n in count.items() if n})
    assert not any(math.isinf(v) for v in s.votes.values())
