"""Losses of rewarded completions: plain references, finite differences, every way of cutting a
batch, and the soft optimum.
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

# loss -> settings for each form that differs; the names of its settings are the reference's
CASES: list[tuple[str, dict[str, Any]]] = [
    *(
        (name, {"beta": beta, "level": level})
        for name in ("oreo_policy", "oreo_value")
        for beta, level in ((0.3, "token"), (0.7, "step"), (0.5, "sequence"))
    ),
    ("reference_kl", {}),
    ("value_regression", {}),
    ("awr", {"beta": 0.8}),
    ("awr", {"beta": 0.3, "max_weight": 1.4}),
    ("awr_critic", {"beta": 0.8}),
    ("awr_critic", {"beta": 0.3, "max_weight": 1.4}),
]
IDS = [f"{name}-{i}" for i, (name, _) in enumerate(CASES)]
LENGTHS = (5, 1, 9, 3, 4)
MODEL = ("logprobs", "values", "ref_logprobs", "reverse_kl")


class Numbers:
    """Random inputs of a few sequences, as float64 tables [sequence][target]; the step of each
    target by sequence.
    """

    steps = ([0, 0, 1, 1, 1], [0], [0, 1, 1, 2, 2, 2, 3, 3, 4], [0, 0, 0], [0, 1, 2, 2])

    def __init__(self, seed: int, scale: float = 1.0) -> None:
        draw = np.random.default_rng(seed)
        self.table = {
            "logprobs": [-np.abs(draw.normal(1, scale, n)) for n in LENGTHS],
            "values": [draw.normal(0, scale, n) for n in LENGTHS],
            "reverse_kl": [np.abs(draw.normal(0, scale, n)) for n in LENGTHS],
        }
        self.table["ref_logprobs"] = [
            x + draw.normal(0, 0.3 * scale, len(x)) for x in self.table["logprobs"]
        ]
        # what travels with the data is float32, so the reference has to see the same numbers
        self.reward = [float(np.float32(x)) for x in draw.normal(0, scale, len(LENGTHS))]
        self.advantage = [float(np.float32(x)) for x in draw.normal(0, scale, len(LENGTHS))]

    def sequences(self) -> list[TokenSequence]:
        sequences = []
        for i, n in enumerate(LENGTHS):
            ids = np.concatenate([[1, 2], 100 * (i + 1) + np.arange(n)])
            streams = {
                "advantages": np.full(n + 2, self.advantage[i]),
                "step": np.concatenate([[0, 0], self.steps[i]]),
            }
            sequences.append(
                TokenSequence(
                    ids, np.arange(n + 2) >= 2, streams, {"reward": self.reward[i]}, row=str(i)
                )
            )
        return sequences

    def leaves(self) -> dict[str, list[torch.Tensor]]:
        fixed = "ref_logprobs"
        return {
            k: [
                torch.tensor(x, dtype=torch.float64, requires_grad=k != fixed)
                for x in self.table[k]
            ]
            for k in MODEL
        }


def run(
    numbers: Numbers,
    objective: Objective,
    trees: list[Tree],
    max_tokens: int | None = None,
    ranks: int = 1,
) -> tuple[float, dict[str, list[np.ndarray]]]:
    """Loss and gradients as the loop forms them."""
    leaves = numbers.leaves()
    totals = objective.denominators(Batch(trees))
    value = 0.0
    for rank in range(ranks):
        for micro in Batch(trees[rank::ranks]).split(max_tokens):
            loss, _ = objective(outputs(micro, leaves), doubled(micro), totals)
            loss.backward()
            value += float(loss.detach())
    return value, {
        k: [x.grad.numpy() if x.grad is not None else np.zeros(len(x)) for x in leaves[k]]
        for k in MODEL
        if k != "ref_logprobs"
    }


def doubled(micro: Forest) -> Forest:
    micro.streams = {k: v.double() for k, v in micro.streams.items()}
    micro.values = {k: v.double() for k, v in micro.values.items()}
    return micro


def outputs(micro: Forest, leaves: dict[str, list[torch.Tensor]]) -> dict[str, torch.Tensor]:
    places = [(int(t) // 100 - 1, int(t) % 100) for t in micro.target]
    return {k: torch.stack([leaves[k][i][j] for i, j in places]) for k in MODEL}


def reference(numbers: Numbers, frozen: Numbers, name: str, settings: dict[str, Any]) -> float:
    """The loss from its formula in plain floats; what a stop-gradient holds is read from
    `frozen`.
    """
    beta, level, cap = (
        settings.get("beta", 1.0),
        settings.get("level"),
        settings.get("max_weight", 20.0),
    )
    per_sequence: list[list[float]] = []
    for i, n in enumerate(LENGTHS):

        def of(table: Numbers, key: str, i: int = i) -> list[float]:
            return [float(x) for x in table.table[key][i]]

        own = [
            p - r for p, r in zip(of(numbers, "logprobs"), of(numbers, "ref_logprobs"), strict=True)
        ]
        held = [
            p - r for p, r in zip(of(frozen, "logprobs"), of(frozen, "ref_logprobs"), strict=True)
        ]
        reward, advantage = numbers.reward[i], numbers.advantage[i]
        action = {"token": list(range(n)), "step": numbers.steps[i], "sequence": [0] * n}.get(
            level or "token", []
        )
        losses = []
        if name.startswith("oreo"):
            for a in range(action[-1] + 1):
                mine = [t for t in range(n) if action[t] == a]
                later = math.fsum(held[t] for t in range(n) if action[t] > a)
                if name == "oreo_policy":
                    gap = (
                        frozen.table["values"][i][mine[0]]
                        - reward
                        + beta * (math.fsum(own[t] for t in mine) + later)
                    )
                else:
                    gap = (
                        numbers.table["values"][i][mine[0]]
                        - reward
                        + beta * (math.fsum(held[t] for t in mine) + later)
                    )
                losses.append(gap**2)
        else:
            for t in range(n):
                critic = frozen.table["values"][i][t]
                credit = advantage if name == "awr" else reward - critic
                losses.append(
                    {
                        "reference_kl": lambda t=t, i=i: numbers.table["reverse_kl"][i][t],
                        "value_regression": lambda t=t, i=i, r=reward: (
                            (numbers.table["values"][i][t] - r) ** 2
                        ),
                        "awr": lambda t=t, i=i, a=credit: (
                            -min(math.exp(a / beta), cap) * numbers.table["logprobs"][i][t]
                        ),
                        "awr_critic": lambda t=t, i=i, a=credit: (
                            -min(math.exp(a / beta), cap) * numbers.table["logprobs"][i][t]
                        ),
                    }[name]()
                )
        per_sequence.append(losses)
    if name.startswith("oreo"):
        return math.fsum(math.fsum(x) / len(x) for x in per_sequence) / len(per_sequence)
    return math.fsum(v for x in per_sequence for v in x) / sum(LENGTHS)


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_value_and_gradient_equal_the_reference(name: str, settings: dict[str, Any]) -> None:
    for seed, scale in ((0, 1.0), (2, 4.0)):
        numbers, frozen = Numbers(seed, scale), Numbers(seed, scale)
        objective = Objective([Component(name, settings)])
        value, gradients = run(numbers, objective, [Tree.build([s]) for s in numbers.sequences()])
        assert value == pytest.approx(
            reference(numbers, frozen, name, settings), rel=1e-6, abs=1e-9
        )
        for key, rows in gradients.items():
            for i, gradient in enumerate(rows):
                for j in range(len(gradient)):
                    ends = []
                    for sign in (1, -1):
                        moved = Numbers(seed, scale)
                        moved.table[key][i][j] += sign * 1e-6
                        ends.append(reference(moved, frozen, name, settings))
                    wanted = (ends[0] - ends[1]) / 2e-6
                    assert gradient[j] == pytest.approx(
                        wanted, rel=2e-4, abs=1e-6 * max(1, abs(value))
                    ), (key, i, j)


@pytest.mark.parametrize(("name", "settings"), CASES, ids=IDS)
def test_invariance(name: str, settings: dict[str, Any]) -> None:
    """Packing, order, sharing, micro-batch size and ranks change nothing."""
    numbers = Numbers(3)
    sequences = numbers.sequences()
    objective = Objective([Component(name, settings)])
    alone = [Tree.build([s]) for s in sequences]
    value, gradients = run(numbers, objective, alone)
    for trees, max_tokens, ranks in (
        ([Tree.build(sequences, min_shared=1)], None, 1),
        (alone[::-1], None, 1),
        (alone, 7, 1),
        (alone, 1, 1),
        ([Tree.build(sequences, min_shared=1)], 9, 1),
        (alone, 8, 3),
    ):
        other, others = run(numbers, objective, trees, max_tokens, ranks)
        assert other == pytest.approx(value, rel=1e-9, abs=1e-12)
        for key, rows in gradients.items():
            for a, b in zip(rows, others[key], strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_oreo_by_hand() -> None:
    """R = 1, beta = 0.5, V = (0.2, 0.6), c = (0.4, -0.2): gaps 0.2 - 1 + 0.5 * 0.2 = -0.7 and
    0.6 - 1 - 0.1 = -0.5.
    """
    c = torch.tensor([0.4, -0.2], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([0.2, 0.6], dtype=torch.float64, requires_grad=True)
    zero, of = torch.zeros(2, dtype=torch.float64), torch.tensor([0, 0])
    given = (c, zero, v, torch.ones(1, dtype=torch.float64), zero, of, 1)
    policy, _ = registry.losses.get("oreo_policy")(*given, beta=0.5)
    value, _ = registry.losses.get("oreo_value")(*given, beta=0.5)
    assert policy.item() == pytest.approx((0.49 + 0.25) / 2) and value.item() == policy.item()
    (gradient,) = torch.autograd.grad(policy.sum(), [c])
    # Each token answers for its own gap alone: 2 * gap * beta / 2 tokens.
    assert gradient.tolist() == pytest.approx([-0.35, -0.25])
    assert torch.autograd.grad(value.sum(), [v])[0].tolist() == pytest.approx([-0.7, -0.5])


@pytest.mark.parametrize("level", ["token", "step", "sequence"])
def test_oreo_finds_the_soft_optimum(level: str) -> None:
    """Two binary actions, reward 1 for (0, 0) alone, trajectories from the reference, beta 0.3;
    both losses are minimised.

    V(s0) = beta log E_ref exp(R / beta) = .5572, and pi = ref exp(R / beta) / Z = .8751, .0468,
    .0546, .0234.
    """
    double = torch.float64
    paths = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    ref_first, ref_second = (
        torch.tensor([0.5, 0.5], dtype=double),
        torch.tensor([[0.4, 0.6], [0.7, 0.3]], dtype=double),
    )
    drawn = ref_first[paths[:, 0]] * ref_second[paths[:, 0], paths[:, 1]]
    first, second = ref_first.log().requires_grad_(), ref_second.log().requires_grad_()
    v0, v1 = (
        torch.zeros(1, dtype=double, requires_grad=True),
        torch.zeros(2, dtype=double, requires_grad=True),
    )
    ref_logprobs = (
        torch.stack([ref_first[paths[:, 0]], ref_second[paths[:, 0], paths[:, 1]]], 1)
        .log()
        .flatten()
    )
    sequence, step = torch.arange(4).repeat_interleave(2), torch.tensor([0.0, 1.0]).repeat(4)
    reward = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=double)
    optimizer = torch.optim.Adam([first, second, v0, v1], lr=0.1)
    cooling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 500)
    policy_loss, value_loss = (registry.losses.get(f"oreo_{side}") for side in ("policy", "value"))

    def probabilities() -> tuple[torch.Tensor, torch.Tensor]:
        one = first.log_softmax(-1)[paths[:, 0]]
        return one, second.log_softmax(-1)[paths[:, 0], paths[:, 1]]

    for _ in range(500):
        optimizer.zero_grad()
        logprobs = torch.stack(probabilities(), 1).flatten()
        values = torch.stack([v0.expand(4), v1[paths[:, 0]]], 1).flatten()
        given = (logprobs, ref_logprobs, values, reward, step, sequence, 4)
        loss = sum(
            (drawn * f(*given, beta=0.3, level=level)[0]).sum() for f in (policy_loss, value_loss)
        )
        loss.backward()
        optimizer.step()
        cooling.step()
    one, two = probabilities()
    assert v0.item() == pytest.approx(0.5572, abs=2e-4)
    assert (one + two).exp().tolist() == pytest.approx([0.8751, 0.0468, 0.0546, 0.0234], abs=3e-4)


def test_extreme_advantages_stay_finite() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    loss, told = registry.losses.get("awr")(
        logprobs, torch.tensor([1e4, 0.0, -1e4]), beta=0.01, max_weight=20.0
    )
    assert loss.tolist() == pytest.approx([20.0, 2.0, 0.0]) and told["awr/capped"].tolist() == [
        1,
        0,
        0,
    ]


def test_awr_tilts_a_distribution() -> None:
    """Weighted regression lands on ref exp(R / beta) / Z: three answers by hand, R = (1, .2,
    -.5), beta .5, baseline none.
    """
    ref, reward = (
        torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
        torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64),
    )
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        (
            ref * registry.losses.get("awr")(theta.log_softmax(0), reward, beta=0.5)[0]
        ).sum().backward()
        optimizer.step()
    assert theta.softmax(0).tolist() == pytest.approx([0.87638, 0.10616, 0.01745], abs=2e-4)
