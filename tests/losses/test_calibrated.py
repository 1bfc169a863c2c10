"""Losses that fix the reward of each completion: hand-worked numbers at log-ratios of 0 and 1."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain import registry

LOG2 = math.log(2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cal_dpo", LOG2 + 2 * 0.25),
        ("nca", 2 * LOG2),
        ("bco_pair", 2 * LOG2),
        ("sppo", 2 * 0.25),
        ("apo_zero", 1.0),
        ("apo_down", 1.0),
    ],
)
def test_at_the_start(name: str, expected: float) -> None:
    """With log-ratios of 0 and beta 1, the goal 1 / (2 beta) is 1/2."""
    zero = torch.zeros(1)
    value, _ = registry.losses.bind(name, {"beta": 1.0})(zero, zero, zero, zero)
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_npo_by_hand() -> None:
    """-(2 / beta) log s(-beta r) with beta 2 and r = 1."""
    value = registry.losses.bind("npo", {"beta": 2.0})(torch.tensor([1.0]), torch.zeros(1))
    assert value.item() == pytest.approx(math.log(1 + math.exp(2)), abs=1e-6)


@pytest.mark.parametrize("name", ["cal_dpo", "sppo", "npo"])
def test_beta_divides(name: str) -> None:
    zeros = [torch.zeros(1)] * len(registry.losses.entry(name).inputs)
    with pytest.raises(ValueError, match="beta is 0"):
        registry.losses.bind(name, {"beta": 0.0})(*zeros)
