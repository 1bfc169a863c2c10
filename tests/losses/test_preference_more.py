"""Losses of pairs that need more than two log-ratios: whole batches, sequential KL, margins,
triples, weighted pairs.
"""

from __future__ import annotations

import importlib.util
from math import exp, fsum, log1p
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.config import Component
from posttrain.training.objective import Objective

_spec = importlib.util.spec_from_file_location("loss_tables", Path(__file__).with_name("tables.py"))
assert _spec is not None and _spec.loader is not None
tables: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tables)

PAIRS = [(5, 3), (1, 4), (9, 9), (2, 7)]
TRIPLES = [(5, 3, 2), (1, 4, 6), (9, 9, 3), (2, 7, 1)]
MARGINS = [0.5, 2.0, 0.0, 1.0]


def ls(x: float) -> float:
    return -log1p(exp(-x)) if x >= 0 else x - log1p(exp(x))


def rows(t: Any, still: Any, num: int = 2) -> list[dict[str, float]]:
    """Plain numbers of each pair: log-probs, log-ratios c and r, lengths n and m, KL sums; g of
    a third text.
    """
    sums = [fsum(a) for a in t.streams["logprobs"]]
    ref = [fsum(a) for a in t.ref]
    kl = [fsum(a) for a in t.streams["forward_kl"]]
    held = [fsum(a) for a in still.streams["forward_kl"]]
    return [
        {
            "chosen": sums[k],
            "rejected": sums[k + 1],
            "ref_c": ref[k],
            "ref_r": ref[k + 1],
            "c": sums[k] - ref[k],
            "r": sums[k + 1] - ref[k + 1],
            "n": t.flat[k],
            "m": t.flat[k + 1],
            "kl_c": kl[k],
            "kl_r": kl[k + 1],
            "held_c": held[k],
            "margin": MARGINS[k // num],
            "g": sums[k + num - 1],
            "g_n": t.flat[k + num - 1],
        }
        for k in range(0, len(sums), num)
    ]


def mean(values: Any) -> float:
    values = list(values)
    return fsum(values) / len(values)


def smoothed(d: float, e: float) -> float:
    return -(1 - e) * ls(d) - e * ls(-d)


def aot(t: Any, still: Any, beta: float = 0.1, e: float = 0.0) -> float:
    p = rows(t, still)
    u, v = (
        sorted(x["chosen"] - x["rejected"] for x in p),
        sorted(x["ref_c"] - x["ref_r"] for x in p),
    )
    return mean(smoothed(beta * (a - b), e) for a, b in zip(u, v, strict=True))


def aot_unpaired(t: Any, still: Any, beta: float = 0.1, e: float = 0.0) -> float:
    p = rows(t, still)
    u, v = sorted(x["c"] for x in p), sorted(x["r"] for x in p)
    return mean(smoothed(beta * (a - b), e) for a, b in zip(u, v, strict=True))


def tdpo(t: Any, still: Any, version: int, beta: float = 0.1, alpha: float = 0.5) -> float:
    def one(x: dict[str, float]) -> float:
        u = beta * (x["c"] - x["r"])
        if version == 1:
            return -ls(u - beta * (x["kl_r"] - x["kl_c"]))
        return -ls(u - alpha * beta * (x["kl_r"] - x["held_c"]))

    return mean(one(x) for x in rows(t, still))


def tpo(t: Any, still: Any, form: str, beta: float = 0.01, gamma: float = 0.5) -> float:
    def one(x: dict[str, float]) -> float:
        d, a = x["chosen"] - x["rejected"], x["chosen"] / x["n"] - x["rejected"] / x["m"]
        return {
            "sigmoid": -ls(beta * d),
            "hinge": max(0.0, 1 - beta * d),
            "ipo": (a - 0.5 / beta) ** 2,
            "length": -ls(beta * a - gamma),
        }[form]

    return mean(one(x) for x in rows(t, still, 3))


Case = tuple[str, dict[str, Any], Any]
CASES: list[Case] = [
    ("aot", {}, aot),
    ("aot", {"beta": 0.5, "label_smoothing": 0.2}, lambda t, still: aot(t, still, 0.5, 0.2)),
    ("aot_unpaired", {}, aot_unpaired),
    ("aot_unpaired", {"label_smoothing": 0.1}, lambda t, still: aot_unpaired(t, still, e=0.1)),
    ("tdpo", {"version": 1}, lambda t, still: tdpo(t, still, 1)),
    ("tdpo", {"alpha": 0.3, "beta": 0.2}, lambda t, still: tdpo(t, still, 2, 0.2, 0.3)),
    (
        "odpo",
        {"alpha": 0.5},
        lambda t, still: mean(
            -ls(0.1 * (x["c"] - x["r"]) - 0.5 * x["margin"]) for x in rows(t, still)
        ),
    ),
    *(
        ("tpo", {"form": f}, lambda t, still, f=f: tpo(t, still, f))
        for f in ("sigmoid", "hinge", "ipo", "length")
    ),
    *(
        (
            "bfpo",
            {"tau": tau},
            lambda t, still, tau=tau: mean(
                (x["c"] - x["r"] - x["margin"] / tau) ** 2 for x in rows(t, still)
            ),
        )
        for tau in (1.0, 0.4)
    ),
    ("gold_nll", {}, lambda t, still: mean(-x["g"] / x["g_n"] for x in rows(t, still, 3))),
]


def made(name: str, seed: int, scale: float = 1.0) -> Any:
    if name in ("tpo", "gold_nll"):
        return tables.Tables(TRIPLES, seed, scale)
    return tables.Tables(PAIRS, seed, scale, {"margin": [m for m in MARGINS for _ in range(2)]})


def goal_of(name: str, settings: dict[str, Any]) -> Objective:
    roles = (
        ("chosen", "rejected", "gold") if name in ("tpo", "gold_nll") else ("chosen", "rejected")
    )
    return Objective([Component(name, settings)], roles=roles)


@pytest.mark.parametrize(
    ("name", "settings", "reference"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_value_gradient_and_invariance(name: str, settings: dict[str, Any], reference: Any) -> None:
    goal = goal_of(name, settings)
    streams = ("logprobs", "forward_kl") if name == "tdpo" else ("logprobs",)
    for seed, scale in ((0, 1.0), (1, 0.01), (2, 4.0)):
        table = made(name, seed, scale)
        tables.check_value_and_gradient(goal, table, reference, streams, constant=table)
    tables.check_invariance(goal, made(name, 3))
    tables.check_finite(goal, made(name, 4, 100.0))


def test_aot_by_hand() -> None:
    """Margins (3, -1) against the reference's (0, 1): sorted (-1, 3) and (0, 1), so d = beta
    (-1, 2).
    """
    from posttrain import registry

    chosen, rejected, zero = (
        torch.tensor([3.0, -1.0]),
        torch.tensor([0.0, 0.0]),
        torch.tensor([0.0, 0.0]),
    )
    value, _ = registry.losses.get("aot")(
        chosen, rejected, torch.tensor([0.0, 1.0]), zero, beta=1.0
    )
    assert value.tolist() == pytest.approx([-ls(-1.0), -ls(2.0)], rel=1e-6)


def test_the_batch_of_a_transport_loss_stays_whole() -> None:
    assert goal_of("aot", {}).whole == "batch" and goal_of("tdpo", {}).whole == "tree"
    assert {"forward_kl"} <= goal_of("tdpo", {}).needs and goal_of("tdpo", {}).needs_reference


def test_on_policy_weights_multiply_any_loss_of_pairs() -> None:
    """exp(mean_t(log pi - log sum pi^2)) of chosen times rejected, held constant."""

    def reference(t: Any, still: Any) -> float:
        def likely(k: int) -> float:
            return exp(
                mean(
                    a - b
                    for a, b in zip(still.streams["logprobs"][k], still.collision[k], strict=True)
                )
            )

        return mean(
            likely(2 * i) * likely(2 * i + 1) * -ls(0.1 * (x["c"] - x["r"]))
            for i, x in enumerate(rows(t, still))
        )

    goal = Objective([Component("dpo")], roles=("chosen", "rejected"), on_policy_weight=True)
    assert "log_collision" in goal.needs
    table = made("dpo", 0)
    tables.check_value_and_gradient(goal, table, reference, constant=table)
    tables.check_invariance(goal, made("dpo", 3))


@pytest.mark.parametrize("num", [2, 3])
def test_tail_weight_counts_what_one_completion_has_more_than_the_other(num: int) -> None:
    """LD-DPO; of a triple the reference text is left as it is."""

    def reference(t: Any, still: Any) -> float:
        values = []
        for k in range(0, len(t.flat), num):
            short = min(t.flat[k], t.flat[k + 1])
            c, r = (
                fsum(
                    w * (a - b)
                    for w, a, b in zip(
                        [1.0] * short + [0.3] * 99, t.streams["logprobs"][i], t.ref[i], strict=False
                    )
                )
                for i in (k, k + 1)
            )
            gold = fsum(t.streams["logprobs"][k + 2]) / t.flat[k + 2] if num == 3 else 0.0
            values.append(-ls(0.1 * (c - r)) - gold)
        return mean(values)

    roles = ("chosen", "rejected", "gold")[:num]
    losses = [Component("dpo"), Component("gold_nll")][: num - 1]
    goal = Objective(losses, roles=roles, tail_weight=0.3)
    table = tables.Tables(PAIRS if num == 2 else TRIPLES, 0)
    tables.check_value_and_gradient(goal, table, reference, constant=table)
    tables.check_invariance(goal, table)
