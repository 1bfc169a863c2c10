"""Policy losses with one value a sequence, a group or a step: plain references, finite
differences, ways of cutting a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from posttrain import registry
from posttrain.config import Component
from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.training.objective import Objective

LENGTHS = [[5, 1, 3], [4, 4], [2, 6, 3]]  # completions of three prompts
Rows = list[list[float]]


class Numbers:
    """Random float64 tables, one row a completion, the groups one after another."""

    def __init__(self, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.lengths = [n for group in LENGTHS for n in group]
        self.group = [g for g, group in enumerate(LENGTHS) for _ in group]
        self.logprobs: Rows = [list(-np.abs(draw.normal(1, 1, n))) for n in self.lengths]
        self.old: Rows = [
            [float(np.float32(x + draw.normal(0, 0.5))) for x in row] for row in self.logprobs
        ]
        self.advantages = [float(np.float32(draw.normal(0, 2))) for _ in self.lengths]
        self.rewards = [float(np.float32(draw.normal())) for _ in self.lengths]
        self.rewards[4] = math.nan

    def trees(self) -> list[Tree]:
        trees, number = [], 0
        for group in LENGTHS:
            sequences = []
            for n in group:
                ids = np.concatenate([[1, 2], 100 * (number + 1) + np.arange(n)])
                streams = {
                    "old_logprobs": np.array([0, 0, *self.old[number]]),
                    "advantages": np.full(n + 2, self.advantages[number]),
                }
                values = {"reward": self.rewards[number]}
                sequences.append(
                    TokenSequence(ids, np.arange(n + 2) >= 2, streams, values, row=str(number))
                )
                number += 1
            trees.append(Tree.build(sequences))
        return trees


def gmpo(x: Numbers, clip: float = 0.4) -> float:
    total = 0.0
    for row, old, a in zip(x.logprobs, x.old, x.advantages, strict=True):
        d = [p - o for p, o in zip(row, old, strict=True)]
        d = [min(v, clip) if a >= 0 else max(v, -clip) for v in d]
        total += -a * math.prod(math.exp(v) for v in d) ** (1 / len(d))
    return total / len(x.logprobs)


def mrt(x: Numbers, alpha: float = 0.005) -> float:
    total = 0.0
    for g in range(len(LENGTHS)):
        members = [
            i for i, group in enumerate(x.group) if group == g and not math.isnan(x.rewards[i])
        ]
        powers = [math.exp(alpha * sum(x.logprobs[i])) for i in members]
        total += -sum(p / sum(powers) * x.rewards[i] for p, i in zip(powers, members, strict=True))
    return total / len(LENGTHS)


def tokens(x: Numbers) -> list[tuple[float, float, float]]:
    """(logprob, old logprob, advantage) of every token."""
    return [
        (p, o, a)
        for row, old, a in zip(x.logprobs, x.old, x.advantages, strict=True)
        for p, o in zip(row, old, strict=True)
    ]


def covariances(x: Numbers) -> list[float]:
    flat = tokens(x)
    p_mean, a_mean = (sum(t[i] for t in flat) / len(flat) for i in (0, 2))
    return [(p - p_mean) * (a - a_mean) for p, _, a in flat]


def clip_cov(x: Numbers, frozen: Numbers) -> float:
    """All candidates are cut in the case below, so that no draw enters."""
    cov = covariances(frozen)
    losses = []
    for (p, o, a), c in zip(tokens(x), cov, strict=True):
        r = math.exp(p - o)
        losses.append(0.0 if 0.5 < c < 5.0 else -min(r * a, min(max(r, 0.8), 1.2) * a))
    return sum(losses) / len(losses)


def kl_cov(x: Numbers, frozen: Numbers) -> float:
    cov = covariances(frozen)
    held = sorted(cov)[-3:]
    losses = [
        -math.exp(p - o) * a + (0.5 * abs(p - o) if c in held else 0.0)
        for (p, o, a), c in zip(tokens(x), cov, strict=True)
    ]
    return sum(losses) / len(losses)


CASES: list[tuple[str, dict[str, Any], Callable[[Numbers, Numbers], float]]] = [
    ("gmpo", {}, lambda x, _: gmpo(x)),
    ("gmpo", {"clip": 0.05}, lambda x, _: gmpo(x, 0.05)),
    ("mrt", {}, lambda x, _: mrt(x)),
    ("mrt", {"alpha": 0.7}, lambda x, _: mrt(x, 0.7)),
    ("clip_cov", {"ratio": 1.0, "cov_low": 0.5}, clip_cov),
    ("kl_cov", {"ratio": 3.2 / 28, "kl_weight": 0.5}, kl_cov),
]


def run(
    x: Numbers,
    name: str,
    settings: dict[str, Any],
    trees: list[Tree],
    max_tokens: int | None = None,
) -> tuple[float, list[np.ndarray]]:
    goal = Objective([Component(name, settings)], groups=name == "mrt")
    leaves = [torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in x.logprobs]
    batch = Batch(trees, whole=goal.whole)
    totals = goal.denominators(batch)
    value = 0.0
    for micro in batch.split(max_tokens):
        micro.streams = {k: v.double() for k, v in micro.streams.items()}
        loss, _ = goal({"logprobs": _gather(micro, leaves)}, micro, totals)
        loss.backward()
        value += float(loss.detach())
    return value, [leaf.grad.numpy() for leaf in leaves if leaf.grad is not None]


def _gather(micro: Forest, leaves: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([leaves[int(t) // 100 - 1][int(t) % 100] for t in micro.target])


@pytest.mark.parametrize(
    ("name", "settings", "expected"), CASES, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(CASES)]
)
def test_value_gradient_and_invariance(
    name: str, settings: dict[str, Any], expected: Callable[[Numbers, Numbers], float]
) -> None:
    x = Numbers()
    value, gradients = run(x, name, settings, x.trees())
    assert value == pytest.approx(expected(x, x), rel=1e-6)
    for i, gradient in enumerate(gradients):
        for j in range(len(gradient)):
            ends = []
            for sign in (1, -1):
                moved = Numbers()
                moved.logprobs[i][j] += sign * 1e-6
                ends.append(expected(moved, x))
            assert gradient[j] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-7)
    for trees, max_tokens in ((x.trees()[::-1], None), (x.trees(), 12), (x.trees(), 1)):
        other, others = run(x, name, settings, trees, max_tokens)
        assert other == pytest.approx(value, rel=1e-9)
        for a, b in zip(gradients, others, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_clip_cov_draws_by_seed_alone() -> None:
    """A share of the candidates is cut; which, does not hang on the order of the tokens."""
    loss = registry.losses.get("clip_cov")
    draw = torch.Generator().manual_seed(0)
    logprobs, advantages = (torch.randn(400, generator=draw, dtype=torch.float64) for _ in range(2))
    sequence = torch.zeros(400, dtype=torch.long)
    values, told = loss(logprobs, logprobs, advantages, sequence, 1, ratio=0.02, cov_low=0.5)
    assert int(told["covariance/cut"].sum()) == 8
    order = torch.randperm(400, generator=draw)
    again, _ = loss(
        logprobs[order], logprobs[order], advantages[order], sequence, 1, ratio=0.02, cov_low=0.5
    )
    torch.testing.assert_close(again, values[order])


def test_minimum_risk_by_hand() -> None:
    """Two candidates with log-probs 0 and log 3, alpha 1, rewards 1 and 0: Q = (1/4, 3/4), so
    the value is -1/4.
    """
    value = registry.losses.get("mrt")(
        torch.tensor([0.0, math.log(3)]), torch.tensor([1.0, 0.0]), torch.tensor([0, 0]), alpha=1.0
    )
    torch.testing.assert_close(value, torch.tensor([-0.25]))


def test_at_ratio_one_the_ratio_losses_have_the_gradient_of_reinforce() -> None:
    logprobs = torch.tensor([-1.0, -0.5, -2.0, -0.1], dtype=torch.float64)
    advantages = torch.tensor([1.0, 1.0, -2.0, -2.0], dtype=torch.float64)
    sequence = torch.tensor([0, 0, 1, 1])
    for name in ("clipped", "surrogate", "sapo", "vespo", "cispo", "dppo"):
        entry = registry.losses.entry(name)
        x = logprobs.clone().requires_grad_()
        inputs = {
            "logprobs": x,
            "old_logprobs": logprobs,
            "advantages": advantages,
            "sequence": sequence,
            "num_sequences": 2,
        }
        result = registry.losses.get(name)(*(inputs[i] for i in entry.inputs))
        (result[0] if isinstance(result, tuple) else result).sum().backward()
        torch.testing.assert_close(x.grad, -advantages, msg=name)
