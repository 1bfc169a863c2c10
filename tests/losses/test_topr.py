"""Weights of tapered off-policy REINFORCE, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.losses.topr import topr

NEW = torch.tensor([-1.0, -1.0, -1.0, -1.0])
# ratios of the sequences' probabilities: 4 (tokens of 2), 1/2 and 3
OLD = NEW - torch.tensor([math.log(2), math.log(2), -math.log(2), math.log(3)])
SEQUENCE = torch.tensor([0, 0, 1, 2])


def test_good_completions_count_in_full_and_bad_ones_by_truncated_weights() -> None:
    loss, metrics = topr(NEW, OLD, torch.tensor([1.0, 1.0, -1.0, -1.0]), SEQUENCE, 3)
    assert metrics["topr/weight"].tolist() == pytest.approx([1.0, 1.0, 0.5, 1.0])
    assert loss.tolist() == pytest.approx([1.0, 1.0, -0.5, -1.0])


def test_weights_of_good_completions_can_be_bounded_too() -> None:
    _, metrics = topr(NEW, OLD, torch.ones(4), SEQUENCE, 3, clip_positive=3.5)
    assert metrics["topr/weight"].tolist() == pytest.approx([3.5, 3.5, 0.5, 3.0])
