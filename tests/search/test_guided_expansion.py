"""A tree that grows by confidence."""

from __future__ import annotations

import math

import pytest
from step_trees import END, PROMPT, TreeAsk, decode, digits, run

from posttrain.errors import ConfigError
from posttrain.search.base import Candidate
from posttrain.search.guided_expansion import confidence, guided_expansion

TREE = digits({1: 0.5, 2: 0.5}, {1: 0.5, 2: 0.5})


class LogprobAsk(TreeAsk):
    """An `Ask` that reports the log-probs of its policy."""

    async def __call__(self, context, *arguments, **options):
        candidates = await super().__call__(context, *arguments, **options)
        for c in candidates:
            path = (*context[1:], *c.ids)
            start = len(context) - 1
            places = range(start, len(path))
            c.logprob = sum(math.log(self.policy(path[:k])[path[k]]) for k in places)
        return candidates


def unsure_behind_1(path):
    """Lines of a digit. 1 is likelier than 2, and what follows 1 is not sure, what follows 2 is."""
    line, inside = divmod(len(path), 2)
    if inside:
        return {END: 1.0} if line else {9: 1.0}
    if not line:
        return {1: 0.6, 2: 0.4}
    return dict.fromkeys((3, 4, 5, 6), 0.25) if path[0] == 1 else {7: 1.0}


def test_confidence_is_the_mean_probability_of_a_token() -> None:
    assert confidence(Candidate((1, 2), "", 2 * math.log(0.25), True)) == pytest.approx(0.25)
    assert confidence(Candidate((), "", 0.0, False)) == 0


def test_it_goes_back_to_a_path_that_is_surer() -> None:
    ask = LogprobAsk(unsure_behind_1, seed=1)
    s = run(guided_expansion(PROMPT, ask, str, decode, num_samples=20, num_children=12))
    assert s.text == "2\n7" and s.notes["num_whole"] == 5  # every text once
    assert [context[1:] for context, *_ in ask.calls] == [(), (1, 9), (2, 9)]  # the likelier first
    assert s.notes["confidence"] == pytest.approx(max(map(confidence, s.candidates)))
    ask = LogprobAsk(unsure_behind_1, seed=1)
    first = run(guided_expansion(PROMPT, ask, str, decode, num_samples=1, num_children=12))
    assert first.text.startswith("1\n")  # it stops at the first whole path


def test_one_sample_with_one_child_is_one_sample() -> None:
    for seed in range(5):
        one = {"num_samples": 1, "num_children": 1}
        s = run(guided_expansion(PROMPT, TreeAsk(TREE, seed=seed), str, decode, **one))
        assert s.notes["num_expansions"] == 2 and len(s.candidates) == 1
        assert s.candidates[0].ended and s.num_tokens == 4


def test_it_abstains_where_it_is_not_sure() -> None:
    for bar, abstained in ((0.0, False), (0.5, False), (0.99, True)):
        s = run(guided_expansion(PROMPT, LogprobAsk(TREE), str, decode, min_confidence=bar))
        assert s.abstained is abstained


@pytest.mark.parametrize("budget", [0, 1, 3, 5, 9])
def test_any_budget_gives_a_selection(budget: int) -> None:
    ask = TreeAsk(TREE, budget=budget)
    assert run(guided_expansion(PROMPT, ask, str, decode)).candidates
    assert ask.budget.num_tokens <= budget


def test_an_end_to_expansions_completes_the_best_path() -> None:
    s = run(guided_expansion(PROMPT, TreeAsk(TREE), str, decode, num_expansions=1))
    assert s.candidates[s.index].ended and s.notes["num_expansions"] == 1
    for name, value in (("min_confidence", 1.5), ("num_children", 0), ("num_expansions", 0)):
        with pytest.raises(ConfigError, match=name):
            run(guided_expansion(PROMPT, TreeAsk(TREE), str, decode, **{name: value}))
