"""Random log-probs of many sequences as plain tables, and what every loss on them must satisfy.

A test gives a reference: plain Python on these tables -> the value of the whole step. The loss, run
through an objective, must have its value, its gradient by finite differences, and be the same
however the batch is ordered or cut.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.training.objective import Objective

Reference = Callable[["Tables"], float]


class Tables:
    """lengths: targets of each sequence of each tree. values: name -> numbers, one a sequence
    in the same order.
    """

    def __init__(
        self,
        lengths: list[tuple[int, ...]],
        seed: int = 0,
        scale: float = 1.0,
        values: dict[str, list[float]] | None = None,
    ) -> None:
        draw = np.random.default_rng(seed)
        self.lengths = lengths
        self.flat = [n for tree in lengths for n in tree]
        self.values = values or {}
        self.streams = {"logprobs": [-np.abs(draw.normal(1, scale, n)) - 0.01 for n in self.flat]}
        self.streams["forward_kl"] = [np.abs(draw.normal(0, scale, n)) for n in self.flat]
        self.ref = [x + draw.normal(0, 0.5 * scale, len(x)) for x in self.streams["logprobs"]]
        self.collision = [-np.abs(draw.normal(1, 0.5, n)) for n in self.flat]

    def trees(self) -> list[Tree]:
        trees, k = [], 0
        for i, lengths in enumerate(self.lengths):
            members = []
            for n in lengths:
                ids = np.concatenate([[1, 2], 100 * (k + 1) + np.arange(n)])
                values = {name: numbers[k] for name, numbers in self.values.items()}
                members.append(
                    TokenSequence(ids, np.arange(n + 2) >= 2, values=values, row=f"{i} {k}")
                )
                k += 1
            trees.append(Tree.build(members))
        return trees

    def outputs(
        self, micro: Forest, leaves: dict[str, list[torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        places = [(int(t) // 100 - 1, int(t) % 100) for t in micro.target]
        found = {
            name: torch.stack([rows[i][j] for i, j in places]) for name, rows in leaves.items()
        }
        for name, rows in (("ref_logprobs", self.ref), ("log_collision", self.collision)):
            found[name] = torch.tensor([rows[i][j] for i, j in places], dtype=torch.float64)
        return found

    def run(
        self,
        goal: Objective,
        trees: list[Tree] | None = None,
        max_tokens: int | None = None,
        ranks: int = 1,
    ) -> tuple[float, dict[str, list[np.ndarray]]]:
        """The step's value, and the gradient with respect to each stream."""
        trees = self.trees() if trees is None else trees
        leaves = {
            k: [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in rows]
            for k, rows in self.streams.items()
        }
        totals = goal.denominators(Batch(trees, whole=goal.whole))
        value = 0.0
        for rank in range(ranks):
            for micro in Batch(trees[rank::ranks], whole=goal.whole).split(max_tokens):
                micro.values = {k: v.double() for k, v in micro.values.items()}
                loss, _ = goal(self.outputs(micro, leaves), micro, totals)
                if loss.requires_grad:
                    loss.backward()
                value += float(loss.detach())
        zero = {k: [np.zeros(len(x)) for x in rows] for k, rows in self.streams.items()}
        found = {
            k: [z if x.grad is None else x.grad.numpy() for x, z in zip(leaves[k], zero[k])]
            for k in leaves
        }
        return value, found


def check_value_and_gradient(
    goal: Objective,
    tables: Tables,
    reference: Reference,
    streams: tuple[str, ...] = ("logprobs",),
    constant: Any = None,
) -> None:
    """constant: the tables that parts held constant are taken from, for a reference (moved,
    still) of two arguments.
    """
    value, gradients = tables.run(goal)
    of = reference if constant is None else (lambda t: reference(t, constant))
    assert value == pytest.approx(of(tables), rel=1e-6, abs=1e-9)
    for stream in streams:
        for i, gradient in enumerate(gradients[stream]):
            for j in range(len(gradient)):
                ends = []
                for sign in (1, -1):
                    moved = deepcopy(tables)
                    moved.streams[stream][i][j] += sign * 1e-6
                    ends.append(of(moved))
                assert gradient[j] == pytest.approx(
                    (ends[0] - ends[1]) / 2e-6, rel=2e-4, abs=1e-6 * max(1, abs(value))
                )


def check_invariance(goal: Objective, tables: Tables) -> None:
    """Order of trees, micro-batches (down to budgets below a tree) and ranks change nothing.

    Of a loss of the whole batch, which no budget cuts and ranks may not share out, the order.
    """
    value, gradients = tables.run(goal)
    trees = tables.trees()
    cuts: list[dict[str, Any]] = [
        {"trees": trees[::-1]},
        {"trees": trees, "max_tokens": 1},
        {"trees": trees, "max_tokens": 12},
    ]
    if goal.whole != "batch":
        cuts += [{"trees": trees, "ranks": 2}, {"trees": trees, "ranks": 3, "max_tokens": 9}]
    for cut in cuts:
        other, others = tables.run(goal, **cut)
        assert other == pytest.approx(value, rel=1e-12, abs=1e-13)
        for stream in gradients:
            for a, b in zip(gradients[stream], others[stream], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


def check_finite(goal: Objective, tables: Tables) -> None:
    """Float32, whatever the log-ratios."""
    leaves = {
        k: [torch.tensor(x, dtype=torch.float32, requires_grad=True) for x in rows]
        for k, rows in tables.streams.items()
    }
    trees = tables.trees()
    micro = Forest.pack(trees)
    outputs = {k: v.float() for k, v in tables.outputs(micro, leaves).items()}
    loss, _ = goal(outputs, micro, goal.denominators(Batch(trees)))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(
        torch.isfinite(x.grad).all() for rows in leaves.values() for x in rows if x.grad is not None
    )
