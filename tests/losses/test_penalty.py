"""KL estimates and entropy terms, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.losses.penalty import adaptive_entropy, kl, kl_corrected, weighted_entropy

POLICY, REFERENCE = torch.tensor([-1.0]), torch.tensor([-0.5])


@pytest.mark.parametrize(
    ("estimator", "expected"), [("k1", -0.5), ("k2", 0.125), ("k3", math.exp(0.5) - 1.5)]
)
def test_estimates_of_kl(estimator: str, expected: float) -> None:
    value, _ = kl(POLICY, REFERENCE, estimator=estimator)
    assert value.item() == pytest.approx(expected)


def test_the_corrected_kl_is_weighted_by_the_ratio() -> None:
    old = POLICY - math.log(2)
    value, _ = kl_corrected(POLICY, old, REFERENCE, torch.tensor([0]), 1, estimator="k2")
    assert value.item() == pytest.approx(0.25)


def test_the_adaptive_bonus_shrinks_with_the_variance() -> None:
    loss, metrics = adaptive_entropy(
        torch.tensor([2.0, 2.0]), torch.tensor([0.0, math.log(2)]), scale=0.5
    )
    assert metrics["entropy_weight"].tolist() == pytest.approx([0.5, 0.25])
    assert loss.tolist() == pytest.approx([-1.0, -0.5])
    with pytest.raises(ValueError, match="rate is -1"):
        adaptive_entropy(torch.ones(1), torch.ones(1), rate=-1)


def test_weighted_entropy() -> None:
    loss, _ = weighted_entropy(torch.tensor([2.0]), torch.tensor([0.25]))
    assert loss.tolist() == [-0.5]
