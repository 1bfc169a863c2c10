"""COPR and CPPO's retention, by hand and in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from posttrain.losses.continual import copr, knowledge_retention, two_way_kl

CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("copr", {}, {}),
    ("copr", {"beta": 2.0}, {}),
    ("knowledge_retention", {}, {}),
]


def pair(*numbers: float) -> list[torch.Tensor]:
    return [torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in numbers]


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_copr_is_the_divergence_of_renormalised_policies(beta: float) -> None:
    """By the definition: P of two completions, P* with the advantages 1/2 and -1/2."""
    c, r, rc, rr = 0.3, -0.4, -0.2, 0.5
    policy = [math.exp(c), math.exp(r)]
    optimal = [math.exp(rc + 0.5 / beta), math.exp(rr - 0.5 / beta)]
    p = [x / sum(policy) for x in policy]
    q = [x / sum(optimal) for x in optimal]
    expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    value, _ = copr(*pair(c, r, rc, rr), beta=beta)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-9)


def test_the_optimum_has_neither_loss_nor_gradient() -> None:
    chosen, rejected, ref_chosen, ref_rejected = pair(10.0 - 0.2 - 0.5, 0.0, -0.2, 0.5)
    value, metrics = copr(chosen, rejected, ref_chosen, ref_rejected, beta=0.1)
    assert float(value.detach()) == pytest.approx(0.0, abs=1e-12)
    gradient = torch.autograd.grad(value.sum(), chosen)[0]
    assert float(gradient) == pytest.approx(0.0, abs=1e-12)
    assert float(metrics["rewards/margins"]) == pytest.approx(1.0)
    beyond, *_ = pair(20.0)
    value, _ = copr(beyond, rejected, ref_chosen, ref_rejected, beta=0.5)
    assert float(torch.autograd.grad(value.sum(), beyond)[0]) > 0  # pulled back, where DPO pushes


def test_the_divergence_is_finite_far_out() -> None:
    d = torch.tensor([-1e4, 0.0, 1e4], requires_grad=True)
    value = two_way_kl(d, torch.tensor([1e4, -1e4, 1e4]))
    value.sum().backward()
    assert value.isfinite().all() and d.grad is not None and d.grad.isfinite().all()


def test_retention_by_hand() -> None:
    logprobs, ref = torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -2.0])
    value, _ = knowledge_retention(logprobs, ref, torch.tensor([2.0, 7.0]))
    assert value.tolist() == [0.5, 0.0]


def test_a_wrong_beta_is_refused() -> None:
    with pytest.raises(ValueError):
        copr(*pair(0.0, 0.0, 0.0, 0.0), beta=0.0)
