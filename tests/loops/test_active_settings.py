"""Rules that end the rounds."""

from __future__ import annotations

from posttrain.labellers.base import Cost
from posttrain.loops.active_settings import Budget


def test_a_plateau_is_a_mean_gain() -> None:
    budget = Budget(9, plateau_rounds=2, plateau_gain=0.01)
    assert not budget.reason(1, [0.5, 0.5], Cost(), 0.0)  # too few rounds
    assert not budget.reason(2, [0.5, 0.5, 0.53], Cost(), 0.0)  # .015 each
    assert "plateau" in budget.reason(2, [0.5, 0.52, 0.51], Cost(), 0.0)


def test_bounds_of_cost_and_agreement() -> None:
    budget = Budget(9, max_money=5.0, stable_share=0.9)
    assert not budget.reason(0, [0.5], Cost(4.99), 0.89)
    assert "money" in budget.reason(0, [0.5], Cost(5.0), 0.0)
    assert "stable" in budget.reason(3, [0.5], Cost(), 0.9)
    assert "rounds" in budget.reason(9, [0.5], Cost(), 0.0)
