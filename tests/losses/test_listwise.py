"""Losses of ranked completions against plain references, finite differences, closed forms and
every way of cutting a batch.
"""

from __future__ import annotations

import importlib.util
import itertools
from copy import deepcopy
from math import exp, fsum, log, log1p
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain import registry
from posttrain.config import Component
from posttrain.errors import ConfigError
from posttrain.training.objective import Objective

_spec = importlib.util.spec_from_file_location("loss_tables", Path(__file__).with_name("tables.py"))
assert _spec is not None and _spec.loader is not None
tables: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)

LENGTHS = [(5, 3, 4), (1, 4), (2, 7, 3, 6)]
REWARDS = [[0.5, 2.0, 1.0], [0.0, 1.0], [1.0, 0.0, 2.0, 1.0]]  # the last group holds a tie


def ls(x: float) -> float:
    return -log1p(exp(-x)) if x >= 0 else x - log1p(exp(x))


def plackett_luce_dpo(x: list[float], p: list[float], R: list[float], beta: float = 0.1) -> float:
    x = [beta * v for v in x]
    return -fsum(
        log(exp(x[i]) / fsum(exp(x[j]) for j in range(len(x)) if R[j] <= R[i]))
        for i in range(len(x))
    )


def lipo(x: list[float], p: list[float], R: list[float], beta: float = 0.1) -> float:
    x = [beta * v for v in x]
    place = [1 + sum(b > a for b in x) for a in x]
    return -fsum(
        abs(2 ** R[i] - 2 ** R[j])
        * abs(1 / log(1 + place[i]) - 1 / log(1 + place[j]))
        * ls(x[i] - x[j])
        for i, j in itertools.permutations(range(len(x)), 2)
        if R[i] > R[j]
    )


def best(p: list[float], R: list[float]) -> float:
    top = [a for a, r in zip(p, R, strict=True) if r == max(R)]
    return -fsum(top) / len(top)


def rrhf(x: list[float], p: list[float], R: list[float], sft: float = 1.0) -> float:
    pairs = [(i, j) for i, j in itertools.permutations(range(len(p)), 2) if R[i] < R[j]]
    return fsum(max(0.0, p[i] - p[j]) for i, j in pairs) + sft * best(p, R)


def pro(x: list[float], p: list[float], R: list[float], sft: float = 0.05) -> float:
    value = sft * best(p, R)
    for k in range(len(p)):
        gaps = {i: R[k] - R[i] for i in range(len(p)) if R[i] < R[k]}
        if gaps:
            own = exp(max(gaps.values()) * p[k])
            value -= log(own / (own + fsum(exp(g * p[i]) for i, g in gaps.items())))
    return value


def halves(x: list[float], R: list[float]) -> tuple[list[float], list[float]]:
    middle = (min(R) + max(R)) / 2
    return [a for a, r in zip(x, R, strict=True) if r > middle], [
        a for a, r in zip(x, R, strict=True) if r <= middle
    ]


def mdpo(x: list[float], p: list[float], R: list[float], beta: float = 0.1) -> float:
    w, l = halves(x, R)  # noqa: E741
    return -ls(beta * (fsum(w) / len(w) - fsum(l) / len(l)))


def mipo(
    x: list[float], p: list[float], R: list[float], beta: float = 0.1, unbiased: bool = False
) -> float:
    w, l = halves(x, R)  # noqa: E741
    noise = sum(float(np.var(side, ddof=1)) / len(side) for side in (w, l) if len(side) > 1)
    return (fsum(w) / len(w) - fsum(l) / len(l) - 0.5 / beta) ** 2 - unbiased * noise


CASES: list[tuple[str, dict[str, Any], Any]] = [
    ("plackett_luce_dpo", {"beta": 0.5}, lambda *a: plackett_luce_dpo(*a, 0.5)),
    ("lipo", {"beta": 0.5}, lambda *a: lipo(*a, 0.5)),
    ("rrhf", {}, rrhf),
    ("rrhf", {"sft_weight": 0.3}, lambda *a: rrhf(*a, 0.3)),
    ("pro", {}, pro),
    ("mdpo", {"beta": 0.4}, lambda *a: mdpo(*a, 0.4)),
    ("mipo", {}, mipo),
    ("mipo", {"unbiased": True}, lambda *a: mipo(*a, unbiased=True)),
]
IDS = [f"{c[0]}-{i}" for i, c in enumerate(CASES)]


def made(seed: int, scale: float = 1.0) -> Any:
    return tables.Tables(LENGTHS, seed, scale, {"reward": [r for row in REWARDS for r in row]})


@pytest.mark.parametrize(("name", "settings", "single"), CASES, ids=IDS)
def test_value_gradient_and_invariance(name: str, settings: dict[str, Any], single: Any) -> None:
    def reference(t: Any) -> float:
        sums = [fsum(a) for a in t.streams["logprobs"]]
        x = [a - fsum(b) for a, b in zip(sums, t.ref, strict=True)]
        p = [a / n for a, n in zip(sums, t.flat, strict=True)]
        values, start = [], 0
        for R in REWARDS:
            part = slice(start, start + len(R))
            values.append(single(x[part], p[part], R))
            start += len(R)
        return fsum(values) / len(values)

    goal = Objective([Component(name, settings)], groups=True)
    for seed, scale in ((0, 1.0), (1, 0.01), (2, 3.0)):
        tables.check_value_and_gradient(goal, made(seed, scale), reference)
    tables.check_invariance(goal, made(3))
    tables.check_finite(goal, made(4, 100.0))


@pytest.mark.parametrize("name", sorted({c[0] for c in CASES}))
def test_the_order_within_a_group_does_not_matter(name: str) -> None:
    goal = Objective([Component(name)], groups=True)
    table = made(5)
    value, gradients = table.run(goal)
    order = [2, 0, 1, 4, 3, 8, 6, 5, 7]
    moved = deepcopy(table)
    for rows in (
        *moved.streams.values(),
        moved.ref,
        moved.collision,
        *moved.values.values(),
        moved.flat,
    ):
        rows[:] = [rows[i] for i in order]
    moved.lengths = [tuple(moved.flat[:3]), tuple(moved.flat[3:5]), tuple(moved.flat[5:])]
    other, others = moved.run(goal)
    assert other == pytest.approx(value, rel=1e-12)
    for k, i in enumerate(order):
        np.testing.assert_allclose(
            others["logprobs"][k], gradients["logprobs"][i], rtol=1e-9, atol=1e-13
        )


def one(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_two_completions_give_the_losses_of_pairs() -> None:
    """x = (2, -1), beta 0.1: Plackett-Luce and mDPO are DPO, -log s(0.3) = 0.554355."""
    group, zero, reward = torch.zeros(2, dtype=torch.int64), one(0.0, 0.0), one(1.0, 0.0)
    for name in ("plackett_luce_dpo", "mdpo"):
        assert float(
            registry.losses.get(name)(one(2.0, -1.0), zero, reward, group)[0]
        ) == pytest.approx(0.5543552444685271)
    # LiPO: gains 1, places 1 and 2: (1/log 2 - 1/log 3) of it. PRO of (p, gap 1): log(1 + e^-(p1 -
    # p2)).
    value = registry.losses.get("lipo")(one(2.0, -1.0), zero, reward, group)[0]
    assert float(value) == pytest.approx((1 / log(2) - 1 / log(3)) * 0.5543552444685271)
    value = registry.losses.get("pro")(
        one(-1.0, -2.0), one(1.0, 1.0), reward, group, sft_weight=0.0
    )[0]
    assert float(value) == pytest.approx(log1p(exp(-1.0)))


def test_lipo_learns_from_equal_scores() -> None:
    """At the start all scores are equal, and the worse counts as ahead: with gains 1, 2, 4 at
    places 3, 2, 1.
    """
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    value, _ = registry.losses.get("lipo")(
        x, torch.zeros(3), one(1.0, 0.0, 2.0), torch.zeros(3, dtype=torch.int64)
    )
    d = [1 / log(1 + place) for place in (2, 1, 3)]
    expected = 1 * (d[1] - d[0]) + 3 * (d[1] - d[2]) + 2 * (d[0] - d[2])
    assert float(value.detach()) == pytest.approx(expected * log(2))
    value.sum().backward()
    assert x.grad is not None and x.grad[2] < x.grad[0] < x.grad[1] and x.grad[1] > 0 > x.grad[2]


def test_unbiased_mipo_has_the_square_at_the_true_means_as_its_mean() -> None:
    """Over all draws of 2 of 4 winners and 2 of 3 losers, each equally likely with replacement."""
    winners, losers, loss = [1.0, 2.0, 4.0, 0.5], [-1.0, 0.0, 0.7], registry.losses.get("mipo")
    goal = (np.mean(winners) - np.mean(losers) - 5.0) ** 2
    group, reward, zero = (
        torch.zeros(4, dtype=torch.int64),
        one(1.0, 1.0, 0.0, 0.0),
        one(0.0, 0.0, 0.0, 0.0),
    )
    draws = [
        (*w, *loser)
        for w in itertools.product(winners, repeat=2)
        for loser in itertools.product(losers, repeat=2)
    ]
    means = {
        unbiased: np.mean(
            [float(loss(one(*x), zero, reward, group, unbiased=unbiased)[0][0]) for x in draws]
        )
        for unbiased in (True, False)
    }
    assert means[True] == pytest.approx(goal) and means[False] > goal + 0.5


def test_group_losses_belong_to_groups() -> None:
    with pytest.raises(
        ConfigError,
        match="'lipo' compares the completions of a prompt, which this method does not group",
    ):
        Objective([Component("lipo")])
