"""Losses without a reference model, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from posttrain.losses.reference_free import alphapo, chosen_nll, cpo, gold_nll, orpo, simpo, tpo

CHOSEN, REJECTED = torch.tensor([-2.0]), torch.tensor([-6.0])
TWO = torch.tensor([2.0])


def _nls(x: float) -> float:
    """-log sigmoid(x)."""
    return math.log1p(math.exp(-x))


def test_simpo_averages_and_subtracts_the_margin() -> None:
    loss, _ = simpo(CHOSEN, REJECTED, TWO, TWO, beta=0.5, gamma=0.25)
    assert loss.item() == pytest.approx(_nls(0.75))  # 0.5 * (-1 + 3) - 0.25


def test_alphapo_with_alpha_zero_is_simpo() -> None:
    loss, _ = alphapo(CHOSEN, REJECTED, TWO, TWO, alpha=0)
    assert torch.equal(loss, simpo(CHOSEN, REJECTED, TWO, TWO)[0])


def test_cpo_and_orpo() -> None:
    loss, _ = cpo(CHOSEN, REJECTED, beta=0.25, label_smoothing=0.1)
    assert loss.item() == pytest.approx(0.9 * _nls(1.0) + 0.1 * _nls(-1.0))
    # mean probabilities 1/2 and 1/4 have odds 1 and 1/3
    half, quarter = torch.tensor([2 * math.log(0.5)]), torch.tensor([2 * math.log(0.25)])
    odds, _ = orpo(half, quarter, TWO, TWO, beta=1.0)
    assert odds.item() == pytest.approx(_nls(math.log(3)))


@pytest.mark.parametrize(
    ("form", "expected"),
    [("sigmoid", _nls(1.0)), ("hinge", 0.0), ("ipo", 0.0), ("length", _nls(0.0))],
)
def test_forms_of_tpo(form: str, expected: float) -> None:
    loss, _ = tpo(CHOSEN, REJECTED, TWO, TWO, beta=0.25, gamma=0.5, form=form)
    assert loss.item() == pytest.approx(expected)


def test_likelihoods_are_means_a_token() -> None:
    assert chosen_nll(CHOSEN, TWO).tolist() == [1.0]
    assert gold_nll(REJECTED, TWO).tolist() == [3.0]
