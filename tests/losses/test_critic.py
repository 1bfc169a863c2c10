"""The critic's squared error and its clip, worked by hand."""

from __future__ import annotations

import torch

from posttrain.losses.critic import value

VALUES, OLD, RETURNS = torch.tensor([2.0, 0.1]), torch.zeros(2), torch.tensor([2.0, 1.0])


def test_without_a_clip_it_is_half_the_squared_error() -> None:
    loss, _ = value(VALUES, OLD, RETURNS, clip=None)
    torch.testing.assert_close(loss, torch.tensor([0.0, 0.405]))


def test_the_clip_takes_the_worse_of_both_errors() -> None:
    loss, metrics = value(VALUES, OLD, RETURNS, clip=0.5)
    # 2.0 is bounded to 0.5, 1.5 from its return; 0.1 lies within the clip
    torch.testing.assert_close(loss, torch.tensor([1.125, 0.405]))
    assert metrics["value/clip_ratio"].tolist() == [1.0, 0.0]
