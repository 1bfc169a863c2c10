"""Budgets that requests share."""

from __future__ import annotations

import math
from typing import Any

import pytest

from posttrain.budget import Budget
from posttrain.errors import ConfigError


def test_tokens_and_calls_are_counted() -> None:
    budget = Budget(max_tokens=10, max_calls=2)
    assert budget.call() and budget.call() and not budget.call()
    assert budget.num_calls == 2 and budget.is_spent  # nothing more may be asked for
    budget.spend(7)
    assert budget.tokens_left == 3
    budget.spend(3)
    assert budget.tokens_left == 0 and budget.num_tokens == 10


def test_calls_are_left_until_the_last_one() -> None:
    budget = Budget(max_calls=1)
    assert not budget.is_spent and budget.call()
    assert budget.is_spent and budget.tokens_left == math.inf  # what was begun is written on


def test_seconds_run_from_the_first_request() -> None:
    now = [5.0]
    budget = Budget(max_seconds=2, clock=lambda: now[0])
    now[0] = 100.0
    assert budget.seconds == 0 and budget.tokens_left == math.inf
    assert budget.call()
    now[0] = 101.5
    assert budget.seconds == 1.5 and not budget.is_spent
    now[0] = 102.0
    assert budget.is_spent and budget.tokens_left == 0


@pytest.mark.parametrize(
    "limits", [{}, {"max_tokens": -1}, {"max_seconds": math.nan}, {"max_calls": -2}]
)
def test_refuses(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Budget(**limits)
