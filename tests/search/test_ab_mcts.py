"""Adaptive branching."""

from __future__ import annotations

import random

import pytest
from step_trees import END, PROMPT, TreeAsk, digits, run, scores

from posttrain.errors import ConfigError
from posttrain.search.ab_mcts import Answer, Posterior, ab_mcts
from posttrain.search.base import Candidate

FLAT = digits({1: 0.4, 2: 0.3, 3: 0.3})


def searched(gain: int, *, number=16, prior="gaussian", seed=0, budget=10**9):
    """A refinement adds `gain` to the digit of its answer, up to 8."""

    def render(problem):
        return (6, max(1, min(8, int((problem.split("answer:\n")[1].split("\n")[0]) or 1) + gain)))

    def others(context):
        return lambda path: {END: 1.0} if path else {context[1]: 1.0}

    ask = TreeAsk(FLAT, others=others, seed=seed, budget=budget)
    score = scores(lambda c: int(c.text or 0) / 8)
    search = ab_mcts(PROMPT, ask, str, score, "p", render, num_samples=number, prior=prior)
    return run(search), ask


def test_posteriors_by_hand() -> None:
    one = Posterior("gaussian", [0.5, 1.0])
    # m = 2 * 0.75 / 3; tau^2 = (0.1 + 0.125 + 2 * 0.75^2 / 3) / 3
    assert one.gaussian() == pytest.approx((0.5, 3.0, (0.1 + 0.125 + 0.375) / 3))
    assert Posterior("gaussian").gaussian() == pytest.approx((0, 1, 0.1))
    draw = random.Random(0)
    many = Posterior("beta", [1.0, 0.0, 1.0, 1.0])
    draws = [many.draw(draw) for _ in range(4000)]
    assert sum(draws) / 4000 == pytest.approx(3.5 / 5, abs=0.02)
    draws = [Posterior("gaussian", [0.5] * 20).draw(draw) for _ in range(4000)]
    assert sum(draws) / 4000 == pytest.approx(10 / 21, abs=0.01)


def test_a_score_is_told_to_all_that_led_to_it() -> None:
    root = Answer.new(None, None, "beta")
    a = root.added(Candidate((1,), "a", 0.0, True), "beta", 0.5)
    b = a.added(Candidate((2,), "b", 0.0, True), "beta", 0.75)
    b.added(Candidate((3,), "c", 0.0, True), "beta", 1.0)
    assert root.wider.scores == [0.5] and root.deeper.scores == [0.75, 1.0]
    assert a.wider.scores == [0.75] and a.deeper.scores == [1.0] and a.worth.scores == [0.75, 1.0]
    assert b.wider.scores == [1.0] and b.worth.scores == [1.0] and b.depth == 2


@pytest.mark.parametrize("prior", ["beta", "gaussian"])
def test_it_goes_deeper_where_refinement_helps_and_wider_where_it_does_not(prior) -> None:
    helps = [searched(2, prior=prior, seed=s)[0] for s in range(12)]
    harms = [searched(-2, prior=prior, seed=s)[0] for s in range(12)]
    deep, wide = (sum(s.notes["num_independent"] for s in group) for group in (helps, harms))
    assert deep < wide
    assert sum(s.notes["depth"] for s in helps) > sum(s.notes["depth"] for s in harms)
    assert all(int(s.text) > 3 for s in helps)  # which no answer without refinement reaches
    assert all(int(s.text) <= 3 for s in harms)


def test_one_sample_seeds_and_budgets() -> None:
    for seed in range(10):
        s, ask = searched(1, number=1, seed=seed)
        plain = TreeAsk(FLAT, seed=seed)
        assert s.text == run(plain(PROMPT))[0].text
        again = [[c.ids for c in searched(1, seed=seed)[0].candidates] for _ in range(2)]
        assert again[0] == again[1]
    for limit in range(1, 34):
        s, ask = searched(1, budget=limit)
        assert ask.budget.num_tokens <= limit and s.candidates
    with pytest.raises(ConfigError, match="prior: gaussian"):
        bad = scores(lambda c: 2.0)
        run(ab_mcts(PROMPT, TreeAsk(FLAT), str, bad, "p", str, prior="beta"))
