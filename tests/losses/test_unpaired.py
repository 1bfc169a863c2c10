"""Losses of single completions against a plain reference, finite differences, and every way of
cutting a batch.
"""

from __future__ import annotations

import importlib.util
from math import exp, fsum, log1p
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain import registry
from posttrain.config import Component
from posttrain.training.objective import Objective

_spec = importlib.util.spec_from_file_location("loss_tables", Path(__file__).with_name("tables.py"))
assert _spec is not None and _spec.loader is not None
tables: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)

LENGTHS = [(5,), (3,), (1,), (4,), (9,), (2,)]
LABELS = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]
KL, SHIFT = 0.3, -0.2


def s(x: float) -> float:
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))


def ls(x: float) -> float:
    return -log1p(exp(-x)) if x >= 0 else x - log1p(exp(x))


def kto(x: float, label: float, beta: float = 0.1, d: float = 1.0, u: float = 1.0) -> float:
    return d * (1 - s(beta * (x - KL))) if label else u * (1 - s(beta * (KL - x)))


def apo_zero_unpaired(x: float, label: float, beta: float = 0.1) -> float:
    return 1 - s(beta * x) if label else s(beta * x)


def bco(x: float, label: float, beta: float = 0.1) -> float:
    return -ls(beta * (x - SHIFT)) if label else -ls(-beta * (x - SHIFT))


CASES: list[tuple[str, dict[str, Any], Any]] = [
    ("kto", {}, kto),
    (
        "kto",
        {"beta": 0.5, "desirable_weight": 1.5, "undesirable_weight": 0.7},
        lambda x, label: kto(x, label, 0.5, 1.5, 0.7),
    ),
    ("apo_zero_unpaired", {"beta": 0.3}, lambda x, label: apo_zero_unpaired(x, label, 0.3)),
    ("bco", {}, bco),
]


def made(seed: int, scale: float) -> Any:
    values = {"label": LABELS, "kl": [KL] * 6, "shift": [SHIFT] * 6}
    return tables.Tables(LENGTHS, seed, scale, values)


@pytest.mark.parametrize(
    ("name", "settings", "single"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_value_gradient_and_invariance(name: str, settings: dict[str, Any], single: Any) -> None:
    def reference(t: Any) -> float:
        ratios = [fsum(a) - fsum(b) for a, b in zip(t.streams["logprobs"], t.ref, strict=True)]
        return fsum(single(x, label) for x, label in zip(ratios, LABELS, strict=True)) / 6

    goal = Objective([Component(name, settings)])
    for seed, scale in ((0, 1.0), (1, 0.01), (2, 4.0)):
        tables.check_value_and_gradient(goal, made(seed, scale), reference)
    tables.check_invariance(goal, made(3, 1.0))
    tables.check_finite(goal, made(4, 200.0))


def test_hand_worked_numbers() -> None:
    """x = 2, kl = 0.5, beta 0.2: a gain of 0.3; desirable 1 - s(0.3) = 0.425557, undesirable 1
    - s(-0.3) = 0.574443.
    """
    x, zero, kl = (torch.tensor([v], dtype=torch.float64) for v in (2.0, 0.0, 0.5))
    for label, expected in ((1.0, 0.42555748), (0.0, 0.57444252)):
        value, told = registry.losses.get("kto")(x, zero, torch.tensor([label]), kl, beta=0.2)
        assert float(value[0]) == pytest.approx(expected)
        assert told["rewards/chosen"].numel() == label and float(told["kl"][0]) == 0.5
    # At the middle between the two kinds, BCO is log 2 for both.
    shift = registry.losses.get("bco")(x, zero, torch.tensor([1.0]), x)[0]
    assert float(shift[0]) == pytest.approx(0.6931471805599453)
