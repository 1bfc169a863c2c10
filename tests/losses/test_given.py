"""Given tokens beside sampled ones: each loss is averaged over its own, whatever the
micro-batches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from posttrain.config import Component
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.data.tree import marked
from posttrain.training.objective import Objective

CASES = [("given_nll",)]
AGGREGATIONS = ["token_mean", "sequence_mean", "sequence_sum"]
# tokens of each sequence: given and then sampled ones
PARTS = [(0, 4), (3, 2), (5, 0), (0, 1)]


def _sequences() -> tuple[list[TokenSequence], list[np.ndarray], list[np.ndarray]]:
    draw = np.random.default_rng(0)
    sequences, logprobs, advantages = [], [], []
    for i, (given, sampled) in enumerate(PARTS):
        n = given + sampled
        mask = np.arange(n + 2) >= 2
        credit = draw.normal(size=n).astype(np.float32) * (np.arange(n) >= given)
        streams = {
            "given": np.concatenate([[0, 0], np.arange(n) < given]),
            "advantages": np.concatenate([[0, 0], credit]),
        }
        ids = np.concatenate([[1, 2], 100 * (i + 1) + np.arange(n)])
        sequences.append(TokenSequence(ids, mask, streams, row=str(i)))
        logprobs.append(-np.abs(draw.normal(1, 1, n)))
        advantages.append(credit.astype(float))
    return sequences, logprobs, advantages


def _expected(values: list[np.ndarray], aggregation: str) -> float:
    """The plain average over sequences that have any of these tokens."""
    some = [v for v in values if len(v)]
    if aggregation == "token_mean":
        return float(np.concatenate(some).mean())
    return float(np.mean([v.mean() if aggregation == "sequence_mean" else v.sum() for v in some]))


@pytest.mark.parametrize("max_tokens", [None, 7, 1])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_each_loss_is_averaged_over_its_own_tokens(
    aggregation: Any, max_tokens: int | None
) -> None:
    sequences, logprobs, advantages = _sequences()
    terms = [
        Component("reinforce", {}, 1.0, aggregation),
        Component("given_nll", {}, 0.3, aggregation),
    ]
    objective = Objective(terms, marks={"given"})
    batch = Batch([Tree.build([s]) for s in sequences])
    totals = objective.denominators(batch)
    leaves = [torch.tensor(x, requires_grad=True) for x in logprobs]
    value = 0.0
    for micro in batch.split(max_tokens):
        micro.streams = {k: v.double() for k, v in micro.streams.items()}
        found = torch.stack([leaves[int(t) // 100 - 1][int(t) % 100] for t in micro.target])
        loss, _ = objective({"logprobs": found, "entropy": torch.zeros_like(found)}, micro, totals)
        loss.backward()
        value += float(loss.detach())
    first = [-(a * x)[given:] for a, x, (given, _) in zip(advantages, logprobs, PARTS)]
    second = [-x[:given] for x, (given, _) in zip(logprobs, PARTS)]
    assert value == pytest.approx(
        _expected(first, aggregation) + 0.3 * _expected(second, aggregation), rel=1e-6
    )
    # The gradient of the lone given sequence comes from given_nll alone.
    lone = {"token_mean": 1 / 8, "sequence_mean": 1 / 10, "sequence_sum": 1 / 2}[aggregation]
    np.testing.assert_allclose(leaves[2].grad.numpy(), -0.3 * lone, rtol=1e-6)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_nll_on_given_tokens_gives_equal_bits(aggregation: Any) -> None:
    def bits(term: Component) -> tuple[bytes, bytes]:
        sequences, logprobs, _ = _sequences()
        objective = Objective([Component("reinforce"), term], marks={"given"})
        batch = Batch([Tree.build([s]) for s in sequences])
        leaf = torch.tensor(np.concatenate(logprobs), dtype=torch.float32, requires_grad=True)
        (micro,) = batch.split()
        loss, _ = objective({"logprobs": leaf}, micro, objective.denominators(batch))
        loss.backward()
        return loss.detach().numpy().tobytes(), leaf.grad.numpy().tobytes()

    named = bits(Component("given_nll", {}, 0.3, aggregation))
    assert named == bits(Component("nll", {}, 0.3, aggregation, on="given"))


def test_a_group_without_advantage_still_costs_nothing() -> None:
    """But one with given tokens learns those."""
    objective = Objective([Component("reinforce"), Component("given_nll")], marks={"given"})
    tied = TokenSequence(np.array([1, 2]), np.array([False, True]), {"advantages": np.zeros(2)})
    assert not objective.learns(Tree.build([tied]))
    assert objective.learns(Tree.build([marked(tied, "given")]))
