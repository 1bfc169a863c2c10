"""Losses of likelihood: values and gradients worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.losses.likelihood import dft, given_nll, label_smoothing, nll


def test_nll_of_a_probability_of_a_quarter() -> None:
    assert nll(torch.tensor([math.log(0.25)])).item() == pytest.approx(1.3862944)


def test_the_gradient_of_dft_is_minus_the_probability() -> None:
    logprobs = torch.tensor([math.log(0.5), math.log(0.1)], requires_grad=True)
    dft(logprobs).sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-0.5, -0.1])


def test_label_smoothing_mixes_target_and_vocabulary() -> None:
    distribution = torch.tensor([[0.5, 0.25, 0.25]]).log()
    loss = label_smoothing(distribution, torch.tensor([0]), epsilon=0.3)
    mean = (math.log(2) + 2 * math.log(4)) / 3
    assert loss.item() == pytest.approx(0.7 * math.log(2) + 0.3 * mean)
    with pytest.raises(ValueError, match=r"epsilon is 1\.0"):
        label_smoothing(distribution, torch.tensor([0]), epsilon=1.0)


def test_given_nll_counts_given_tokens_alone() -> None:
    loss = given_nll(torch.tensor([-1.0, -2.0]), torch.tensor([0.0, 1.0]))
    assert loss.tolist() == [0.0, 2.0]
