"""Budgets of engines that do not keep them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from posttrain.budget import Budget
from posttrain.engines.shares import generate_within_budgets
from posttrain.types import Request, Sample, Sampling


class Filling:
    """Writes as many tokens as it may."""

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        return [
            [Sample([1] * r.sampling.max_tokens, [], [], "length") for _ in range(r.n)]
            for r in requests
        ]


def lengths(groups: list[list[Sample]]) -> list[list[tuple[int, str]]]:
    return [[(len(s.ids), s.finish_reason) for s in group] for group in groups]


def request(budget: Budget | None, n: int = 2, max_tokens: int = 5) -> Request:
    return Request((1,), Sampling(max_tokens=max_tokens), n=n, budget=budget)


def test_shares_are_equal_and_what_is_left_is_kept() -> None:
    budget = Budget(max_tokens=17)
    groups = generate_within_budgets(Filling(), [request(budget), request(None), request(budget)])
    assert lengths(groups) == [[(4, "budget")] * 2, [(5, "length")] * 2, [(4, "budget")] * 2]
    assert budget.num_tokens == 16
    (group,) = generate_within_budgets(Filling(), [request(budget, n=3)])
    assert lengths([group]) == [[(1, "budget"), (0, "budget"), (0, "budget")]]
    assert budget.is_spent
    assert lengths(generate_within_budgets(Filling(), [request(budget)])) == [[(0, "budget")] * 2]


@pytest.mark.parametrize("limit", range(1, 30))
def test_no_budget_is_exceeded(limit: int) -> None:
    budget = Budget(max_tokens=limit)
    for n in (1, 2, 3):
        generate_within_budgets(Filling(), [request(budget, n=n), request(budget, n=1)])
        assert budget.num_tokens <= limit


def test_calls_beyond_the_limit_are_refused() -> None:
    budget = Budget(max_calls=1)
    groups = generate_within_budgets(Filling(), [request(budget), request(budget)])
    assert lengths(groups) == [[(5, "length")] * 2, [(0, "budget")] * 2]
