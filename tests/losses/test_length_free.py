"""The length-free loss against a plain reference, finite differences and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from posttrain import registry
from posttrain.config import Component
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.losses.length_free import length_free_bradley_terry as length_free
from posttrain.training.objective import Objective

CASES: list[tuple[str, dict[str, Any]]] = [
    ("length_free_bradley_terry", {}),
    ("length_free_bradley_terry", {"correlation_weight": 0.3, "ridge": 0.1}),
    ("length_free_bradley_terry", {"correlation_weight": 0.0}),
]


def reference(
    scores: np.ndarray, margin: np.ndarray, lengths: np.ndarray, weight: float, ridge: float
) -> float:
    """A grid in the place of Newton's method: [Q, 2], [Q], [Q, 2]."""
    z = (lengths - lengths.mean()) / lengths.std()
    d = scores[:, 0] - scores[:, 1] - margin

    def value(a: float) -> float:
        return float(np.logaddexp(0, -(d + a * (z[:, 0] - z[:, 1]))).mean()) + ridge * a * a / 2

    low, high = -30.0, 30.0
    for _ in range(6):
        grid = np.linspace(low, high, 401)
        best = grid[int(np.argmin([value(a) for a in grid]))]
        width = (high - low) / 200
        low, high = best - width, best + width
    rho = np.corrcoef(scores.ravel(), lengths.ravel())[0, 1]
    return value(best) + weight * abs(float(rho))


def drawn(seed: int, pairs: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    scores, margin = draw.standard_normal((pairs, 2)), 0.1 * draw.standard_normal(pairs)
    return scores, margin, draw.integers(1, 30, (pairs, 2)).astype(float)


def value_of(
    scores: np.ndarray, margin: np.ndarray, lengths: np.ndarray, **settings: float
) -> float:
    tensors = [torch.tensor(x) for x in (scores[:, 0], scores[:, 1], margin, lengths.ravel())]
    return float(length_free(*tensors, **settings)[0].mean())


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_value_and_gradient(name: str, settings: dict[str, float]) -> None:
    weight, ridge = settings.get("correlation_weight", 1.0), settings.get("ridge", 0.01)
    for seed in range(3):
        scores, margin, lengths = drawn(seed)
        expected = reference(scores, margin, lengths, weight, ridge)
        assert value_of(scores, margin, lengths, **settings) == pytest.approx(expected, abs=1e-8)
        leaf = torch.tensor(scores, requires_grad=True)
        rest = [torch.tensor(x) for x in (margin, lengths.ravel())]
        loss, _ = registry.losses.get(name)(leaf[:, 0], leaf[:, 1], *rest, **settings)
        loss.mean().backward()
        assert leaf.grad is not None
        for place in np.ndindex(scores.shape):
            step = np.zeros_like(scores)
            step[place] = 1e-5
            change = value_of(scores + step, margin, lengths, **settings) - value_of(
                scores - step, margin, lengths, **settings
            )
            # The length weight is searched anew: the envelope theorem holds.
            assert float(leaf.grad[place]) == pytest.approx(change / 2e-5, abs=1e-6)


def test_labels_that_follow_length_alone_move_the_length_weight_and_not_the_score() -> None:
    lengths = torch.tensor([9.0, 3.0, 8.0, 2.0, 7.0, 1.0], dtype=torch.float64)
    c = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    r = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(3, dtype=torch.float64)
    loss, metrics = length_free(c, r, zero, lengths, correlation_weight=0.0)
    loss.mean().backward()
    plain, _ = registry.losses.get("bradley_terry")(c, r, zero)
    (usual,) = torch.autograd.grad(plain.mean(), c)
    assert metrics["length_weight"].item() > 1
    assert c.grad is not None and c.grad.abs().max() < 0.2 * usual.abs().max()


def test_equal_lengths_give_bradley_terry() -> None:
    scores, margin, _ = drawn(0)
    tensors = [torch.tensor(x) for x in (scores[:, 0], scores[:, 1], margin)]
    ours, metrics = length_free(*tensors, torch.full((12,), 5.0, dtype=torch.float64))
    usual, _ = registry.losses.get("bradley_terry")(*tensors)
    assert torch.allclose(ours, usual)
    assert metrics["length_weight"].item() == metrics["length_correlation"].item() == 0


def test_the_correlation_is_pearsons_and_its_gradient_is_finite_at_equal_scores() -> None:
    scores, margin, lengths = drawn(4)
    tensors = [torch.tensor(x) for x in (scores[:, 0], scores[:, 1], margin, lengths.ravel())]
    _, metrics = length_free(*tensors)
    expected = np.corrcoef(scores.ravel(), lengths.ravel())[0, 1]
    assert metrics["length_correlation"].item() == pytest.approx(expected)
    c = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    loss, _ = length_free(c, c.detach().clone(), *tensors[2:])
    loss.mean().backward()
    assert c.grad is not None and torch.isfinite(c.grad).all()


def test_an_objective_gives_it_the_lengths_of_the_rows() -> None:
    scores, _, lengths = drawn(5, pairs=3)
    trees = []
    for q in range(3):
        sequences = []
        for side in range(2):
            values = {"completion_length": float(lengths[q, side]), "margin": 0.0}
            ids = np.array([1, 2, 3 + 2 * q + side])
            sequences.append(
                TokenSequence(ids, np.arange(3) == 2, values=values, row=f"{q} {side}")
            )
        trees.append(Tree.build(sequences))
    goal = Objective([Component("length_free_bradley_terry")], roles=("chosen", "rejected"))
    assert goal.whole == "batch"
    batch = Batch(trees, whole=goal.whole)
    (micro,) = list(batch.split(None))
    loss, _ = goal(
        {"scores": torch.tensor(scores.ravel(), dtype=torch.float32)},
        micro,
        goal.denominators(batch),
    )
    expected = reference(scores, np.zeros(3), lengths, 1.0, 0.01)
    assert math.isclose(float(loss), expected, rel_tol=1e-4)
