"""Losses of scores against plain references, finite differences, closed forms, and every way of
cutting a batch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from posttrain import registry
from posttrain.config import Component
from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.training.objective import Objective

CASES: list[tuple[str, dict[str, Any]]] = [
    ("bradley_terry", {}),
    ("bradley_terry", {"centring_weight": 0.01, "label_smoothing": 0.1}),
    ("soft_bradley_terry", {}),
    ("plackett_luce", {}),
    ("regression", {}),
    ("binary", {}),
    ("binary", {"positive_weight": 3.0}),
    ("outcome", {}),
    ("process", {"positive_weight": 0.5}),
]
IDS = [f"{name}-{i}" for i, (name, _) in enumerate(CASES)]
PAIRS = {"bradley_terry", "soft_bradley_terry"}
TOKENS = {"outcome", "process"}


# -- plain references: one Python loop, no shared code


def log_s(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def bce(score: float, y: float, positive_weight: float = 1.0) -> float:
    return -positive_weight * y * log_s(score) - (1 - y) * log_s(-score)


def expected(name: str, settings: dict[str, Any], numbers: Scores) -> float:
    """The loss of all groups, from tables [group][sequence][token]."""
    last = [[s[-1] for s in group] for group in numbers.scores]
    if name == "bradley_terry":
        w, e = settings.get("centring_weight", 0.0), settings.get("label_smoothing", 0.0)
        each = []
        for (c, r), m in zip(last, numbers.margin, strict=True):
            each.append(-(1 - e) * log_s(c - r - m) - e * log_s(m + r - c) + w * (c + r) ** 2)
        return sum(each) / len(each)
    if name == "soft_bradley_terry":
        each = [
            -p * log_s(c - r) - (1 - p) * log_s(r - c)
            for (c, r), p in zip(last, numbers.probability, strict=True)
        ]
        return sum(each) / len(each)
    if name == "plackett_luce":
        total = 0.0
        for scores, rewards in zip(last, numbers.reward, strict=True):
            for i, score in enumerate(scores):
                rest = [s for k, s in enumerate(scores) if k == i or rewards[k] < rewards[i]]
                total += math.log(sum(math.exp(s) for s in rest)) - score
        return total / len(last)
    if name in TOKENS:
        flat = [
            bce(x, y, **settings)
            for group, labels in zip(numbers.scores, numbers.labels, strict=True)
            for s, known in zip(group, labels, strict=True)
            for x, y in zip(s, known, strict=True)
        ]
        return sum(flat) / len(flat)
    flat_scores = [x for group in last for x in group]
    if name == "regression":
        return sum(
            (x - y) ** 2
            for x, y in zip(
                flat_scores, [y for group in numbers.reward for y in group], strict=True
            )
        ) / len(flat_scores)
    known = [y for group in numbers.label for y in group]
    return sum(bce(x, y, **settings) for x, y in zip(flat_scores, known, strict=True)) / len(
        flat_scores
    )


class Scores:
    """Random scores and what is known, as tables; each group has two sequences, or up to four
    where groups are ranked.
    """

    def __init__(self, seed: int, scale: float = 1.0, *, pairs: bool = True) -> None:
        draw = np.random.default_rng(seed)
        sizes = [2] * 4 if pairs else [3, 1, 4, 2]
        lengths = [[int(n) for n in draw.integers(1, 5, size)] for size in sizes]
        f32 = np.float32  # what travels with a batch
        self.scores = [[list(draw.normal(0, scale, n)) for n in group] for group in lengths]
        self.labels = [
            [[float(f32(x)) for x in draw.random(n).round()] for n in group] for group in lengths
        ]
        self.labels[0][0][0] = float(f32(0.3))  # soft
        self.label = [[float(draw.integers(2)) for _ in group] for group in lengths]
        self.reward = [[float(draw.integers(3)) for _ in group] for group in lengths]  # with ties
        self.margin = [float(f32(x)) for x in draw.random(len(sizes))]
        self.probability = [float(f32(x)) for x in draw.random(len(sizes))]

    def trees(self) -> list[Tree]:
        trees = []
        for g, group in enumerate(self.scores):
            sequences = []
            for i, scores in enumerate(group):
                ids = np.concatenate(
                    [[1, 2], 10_000 * (g + 1) + 100 * (i + 1) + np.arange(len(scores))]
                )
                values = {
                    "margin": self.margin[g],
                    "probability": self.probability[g],
                    "label": self.label[g][i],
                    "reward": self.reward[g][i],
                }
                labels = np.concatenate([[0, 0], self.labels[g][i]])
                sequences.append(
                    TokenSequence(
                        ids, np.arange(len(ids)) >= 2, {"labels": labels}, values, row=f"{g} {i}"
                    )
                )
            trees.append(Tree.build(sequences))
        return trees

    def leaves(self) -> list[list[list[torch.Tensor]]]:
        make = lambda x: torch.tensor(x, dtype=torch.float64, requires_grad=True)  # noqa: E731
        return [[[make(x) for x in s] for s in group] for group in self.scores]


def objective(name: str, settings: dict[str, Any]) -> Objective:
    roles = ("chosen", "rejected") if name in PAIRS else ()
    return Objective([Component(name, settings)], roles=roles, groups=name == "plackett_luce")


def run(
    numbers: Scores,
    goal: Objective,
    trees: list[Tree],
    max_tokens: int | None = None,
    ranks: int = 1,
) -> tuple[float, list[float]]:
    leaves = numbers.leaves()
    totals = goal.denominators(Batch(trees, whole=goal.whole))
    value = 0.0
    for rank in range(ranks):
        for micro in Batch(trees[rank::ranks], whole=goal.whole).split(max_tokens):
            micro.streams = {k: v.double() for k, v in micro.streams.items()}
            micro.values = {k: v.double() for k, v in micro.values.items()}
            places = [
                (int(t) // 10_000 - 1, int(t) % 10_000 // 100 - 1, int(t) % 100)
                for t in micro.target
            ]
            loss, _ = goal(
                {"scores": torch.stack([leaves[g][i][j] for g, i, j in places])}, micro, totals
            )
            loss.backward()
            value += float(loss.detach())
    return value, [
        0.0 if x.grad is None else float(x.grad) for group in leaves for s in group for x in s
    ]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_value_and_gradient_equal_the_reference(name: str, settings: dict[str, Any]) -> None:
    for seed, scale in ((0, 1.0), (1, 0.01), (2, 8.0)):
        numbers = Scores(seed, scale, pairs=name in PAIRS)
        value, gradients = run(numbers, objective(name, settings), numbers.trees())
        assert value == pytest.approx(expected(name, settings, numbers), rel=1e-9, abs=1e-12)
        flat = iter(gradients)
        for group in numbers.scores:
            for scores in group:
                for j in range(len(scores)):
                    ends = []
                    for sign in (1, -1):
                        scores[j] += sign * 1e-6
                        ends.append(expected(name, settings, numbers))
                        scores[j] -= sign * 1e-6
                    assert next(flat) == pytest.approx(
                        (ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-7
                    )


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_invariance(name: str, settings: dict[str, Any]) -> None:
    """Order, micro-batches (down to budgets below a group) and ranks change nothing."""
    numbers = Scores(3, pairs=name in PAIRS)
    goal, trees = objective(name, settings), numbers.trees()
    value, gradients = run(numbers, goal, trees)
    for way in (
        {"trees": trees[::-1]},
        {"trees": trees, "max_tokens": 1},
        {"trees": trees, "max_tokens": 12},
        {"trees": trees, "ranks": 2},
        {"trees": trees, "ranks": 3, "max_tokens": 9},
    ):
        other, others = run(numbers, goal, **way)
        assert other == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(others, gradients, rtol=1e-10, atol=1e-14)


def test_bradley_terry_by_hand() -> None:
    """c = 2, r = 1, m = 0.5: l = -log s(0.5) = 0.474077, dl/dc = s(0.5) - 1 = -0.377541 =
    -dl/dr; at no difference log 2.
    """
    bt = registry.losses.get("bradley_terry")
    c, r = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in (2.0, 1.0))
    value, told = bt(c, r, torch.tensor([0.5]))
    value.sum().backward()
    assert float(value.detach()[0]) == pytest.approx(0.47407698418010663)
    assert float(c.grad) == pytest.approx(-0.3775406687981454) and float(r.grad) == pytest.approx(
        0.3775406687981454
    )
    assert told["accuracy"].tolist() == [1.0] and told["margin"].tolist() == [1.0]
    zero = torch.zeros(1)
    assert float(bt(zero, zero, zero)[0]) == pytest.approx(math.log(2))
    assert bt(zero, zero, zero)[1]["accuracy"].tolist() == [0.0]  # a tie is no success
    # the level of the scores is free without the centring term, and bound to 0 with it
    torch.testing.assert_close(bt(c + 5, r + 5, zero)[0], bt(c, r, zero)[0])
    assert float(
        (bt(c, r, zero, centring_weight=0.01)[0] - bt(c, r, zero)[0]).detach()
    ) == pytest.approx(0.09)


def test_plackett_luce_of_two_is_bradley_terry_and_of_all_a_distribution() -> None:
    pl, bt = registry.losses.get("plackett_luce"), registry.losses.get("bradley_terry")
    score = torch.tensor([0.3, -1.1], dtype=torch.float64)
    group = torch.tensor([0, 0])
    found, told = pl(score, torch.tensor([1.0, 0.0]), group)
    torch.testing.assert_close(found, bt(score[:1], score[1:], torch.zeros(1))[0])
    assert told["accuracy"].tolist() == [1.0]
    # the six rankings of three have probabilities that sum to one
    score = torch.tensor([0.5, -0.2, 1.3], dtype=torch.float64)
    orders = torch.tensor(
        [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]], dtype=torch.float64
    )
    total = sum(
        math.exp(-float(pl(score, order, torch.zeros(3, dtype=torch.long))[0])) for order in orders
    )
    assert total == pytest.approx(1.0)
    # by hand, best first 1, 2, 0: e^.. of scores (0, 0, 0) is 3! equally likely orders
    assert float(
        pl(torch.zeros(3), torch.tensor([1.0, 3.0, 2.0]), torch.zeros(3, dtype=torch.long))[0]
    ) == pytest.approx(math.log(6))
    # completions with equal rewards are not compared
    assert float(pl(score, torch.ones(3), torch.zeros(3, dtype=torch.long))[0]) == 0.0


def test_soft_labels_are_least_at_their_own_probability() -> None:
    """-p log s(d) - (1 - p) log s(-d) is least, and the entropy of p, where s(d) = p."""
    loss = registry.losses.get("soft_bradley_terry")
    p = torch.tensor([0.8], dtype=torch.float64)
    best = (p / (1 - p)).log()
    at = float(loss(best, torch.zeros(1), p)[0])
    assert at == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))
    assert all(float(loss(best + d, torch.zeros(1), p)[0]) > at for d in (-0.1, 0.1))
    for name in ("outcome", "process"):
        scores, labels = torch.tensor([0.0, 100.0, -100.0]), torch.tensor([0.5, 1.0, 0.0])
        values, told = registry.losses.get(name)(scores, labels)
        torch.testing.assert_close(values, torch.tensor([math.log(2), 0.0, 0.0]))
        assert told["accuracy"].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_extreme_scores_stay_finite(name: str, settings: dict[str, Any]) -> None:
    numbers = Scores(4, 5000.0, pairs=name in PAIRS)
    goal = objective(name, settings)
    micro = Forest.pack(numbers.trees())
    scores = torch.tensor(
        [x for g in numbers.scores for s in g for x in s], dtype=torch.float32, requires_grad=True
    )
    loss, _ = goal({"scores": scores}, micro, goal.denominators(Batch(numbers.trees())))
    loss.backward()
    assert torch.isfinite(loss) and scores.grad is not None and torch.isfinite(scores.grad).all()


def test_the_smallest_and_largest_score_are_told_over_all_micro_batches() -> None:
    from posttrain.averages import Averages

    numbers = Scores(6)
    goal, trees = objective("bradley_terry", {}), numbers.trees()
    flat = [x for g in numbers.scores for s in g for x in s]
    last = [s[-1] for g in numbers.scores for s in g]
    told = Averages()
    for micro in Batch(trees, whole="tree").split(1):
        places = [
            (int(t) // 10_000 - 1, int(t) % 10_000 // 100 - 1, int(t) % 100) for t in micro.target
        ]
        scores = torch.tensor([numbers.scores[g][i][j] for g, i, j in places], dtype=torch.float64)
        told.merge(goal({"scores": scores}, micro, goal.denominators(Batch(trees)))[1])
    means = told.means()
    assert (means["min_reward"], means["max_reward"]) == (min(last), max(last)) and len(flat) > len(
        last
    )
    assert means["mean_reward"] == pytest.approx(sum(last) / len(last))
