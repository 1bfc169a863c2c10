"""Scores of f-divergences."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.losses.divergence import score


@pytest.mark.parametrize("x", [-200.0, -60.0, -3.0, -1e-4, 0.0, 1e-4, 2.0, 200.0])
def test_scores_of_divergences(x: float) -> None:
    """The derivative is f''(u) u > 0; alpha's ends are forward and reverse KL, and nothing
    jumps on the way; float32.
    """
    at = torch.tensor([x], requires_grad=True)
    for divergence, alpha, slope in (
        ("reverse_kl", None, 1.0),
        ("forward_kl", None, math.exp(-x)),
        ("js", None, 1 / (1 + math.exp(x))),
        ("alpha", None, math.exp(-x / 2)),
        ("alpha", 0.3, math.exp(-0.7 * x)),
        ("alpha", -1.0, math.exp(-2 * x)),
    ):
        value = score(at, divergence, alpha)
        (gradient,) = torch.autograd.grad(value.sum(), at)
        assert torch.isfinite(value).all()
        beyond = math.log(max(slope, 1e-300)) - 80
        expected = math.exp(80) / (1 + beyond) if beyond > 0 else slope
        assert float(gradient) == pytest.approx(expected, rel=1e-4, abs=1e-30)
    for alpha, end in ((0.0, "forward_kl"), (1.0, "reverse_kl"), (1 - 1e-9, "reverse_kl")):
        torch.testing.assert_close(
            score(at, "alpha", alpha), score(at, end, None), rtol=1e-5, atol=0
        )
    torch.testing.assert_close(score(at, "alpha", None), score(at, "alpha", 0.5))
