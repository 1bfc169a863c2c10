"""Clip-Cov and KL-Cov on numbers worked by hand."""

from __future__ import annotations

import pytest
import torch

from posttrain.losses.covariance import clip_cov, covariance, kl_cov

LOGPROBS = torch.tensor([-1.0, -2.0, -3.0])
ADVANTAGES = torch.tensor([1.0, 0.0, -1.0])


def test_covariance_is_the_product_of_what_is_centred() -> None:
    assert covariance(LOGPROBS, ADVANTAGES).tolist() == [1.0, 0.0, 1.0]


def test_clip_cov_cuts_the_loss_of_one_token_within_the_bounds() -> None:
    sequence = torch.tensor([0, 0, 0])
    loss, metrics = clip_cov(
        LOGPROBS, LOGPROBS, torch.tensor([4.0, 0.0, -1.0]), sequence, 1, cov_low=2.0, cov_high=9.0
    )
    assert metrics["covariance/cut"].tolist() == [1.0, 0.0, 0.0]
    assert loss.tolist() == [0.0, 0.0, 1.0]


def test_kl_cov_penalises_the_token_of_highest_covariance() -> None:
    old = LOGPROBS - torch.tensor([0.5, 0.0, 0.0])
    loss, metrics = kl_cov(LOGPROBS, old, torch.tensor([4.0, 0.0, -1.0]), kl_weight=2.0)
    assert metrics["covariance/held"].tolist() == [1.0, 0.0, 0.0]
    assert loss.tolist() == pytest.approx([-4 * 1.6487213 + 1.0, 0.0, 1.0])
