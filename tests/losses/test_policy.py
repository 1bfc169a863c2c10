"""Policy-gradient losses on ratios worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.losses.policy import clipped, log_ratio, mrt, reinforce

OLD = torch.tensor([-1.0, -1.0, -1.0])
NEW = torch.tensor([-1.0, -0.4, -1.5])  # log-ratios 0, 0.6 and -0.5
SEQUENCE = torch.tensor([0, 0, 1])


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("token", [0.0, 0.6, -0.5]),
        ("sequence", [0.3, 0.3, -0.5]),
        ("sequence_token", [0.3, 0.3, -0.5]),
        ("sequence_sum", [0.6, 0.6, -0.5]),
    ],
)
def test_levels_of_the_ratio(level: str, expected: list[float]) -> None:
    assert log_ratio(NEW, OLD, SEQUENCE, 2, level).tolist() == pytest.approx(expected)


def test_the_clip_bounds_what_raises_the_objective() -> None:
    loss, metrics = clipped(NEW, OLD, torch.tensor([1.0, 1.0, -1.0]), SEQUENCE, 2)
    assert loss.tolist() == pytest.approx([-1.0, -1.2, 0.8])
    assert metrics["clip_ratio/high_mean"].tolist() == [0.0, 1.0, 0.0]
    assert metrics["clip_ratio/low_mean"].tolist() == [0.0, 0.0, 1.0]


def test_the_dual_clip_bounds_a_huge_ratio() -> None:
    far = torch.tensor([9.0])
    loss, _ = clipped(far, torch.zeros(1), torch.tensor([-1.0]), torch.tensor([0]), 1, clip_max=3.0)
    assert loss.tolist() == [3.0]


def test_reinforce_and_minimum_risk() -> None:
    assert reinforce(torch.tensor([-2.0]), torch.tensor([0.5])).tolist() == [1.0]
    logprob = torch.tensor([math.log(0.3), math.log(0.1), 0.0])
    reward = torch.tensor([1.0, 0.0, math.nan])
    risk = mrt(logprob, reward, torch.tensor([0, 0, 0]), alpha=1.0)
    assert risk.tolist() == pytest.approx([-0.75])
