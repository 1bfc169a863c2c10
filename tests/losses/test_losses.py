"""Every registered loss against a plain reference, finite differences, and every way of cutting
a batch.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain import registry
from posttrain.config import Component
from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.training.objective import Objective

_spec = importlib.util.spec_from_file_location(
    "loss_reference", Path(__file__).with_name("reference.py")
)
assert _spec is not None and _spec.loader is not None
reference: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

# loss -> (settings, reference settings) for each form that differs
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("nll", {}, {}),
    ("dft", {}, {}),
    ("reinforce", {}, {}),
    ("entropy_bonus", {}, {}),
    ("clipped", {}, {}),
    (
        "clipped",
        {"level": "sequence", "clip_low": 0.05},
        {"level": "sequence", "low": 0.05, "high": 0.05},
    ),
    ("clipped", {"clip_low": 0.1, "clip_high": 0.3}, {"low": 0.1, "high": 0.3}),
    ("clipped", {"clip_max": 1.5}, {"cap": 1.5}),
    ("cispo", {}, {}),
    ("cispo", {"level": "sequence", "clip_max": 1.1}, {"level": "sequence", "cap": 1.1}),
    ("kl", {"estimator": "k1"}, {"estimator": "k1"}),
    ("kl", {"estimator": "k2"}, {"estimator": "k2"}),
    ("kl", {"estimator": "k3"}, {"estimator": "k3"}),
    (
        "clipped",
        {"level": "sequence_token", "clip_low": 0.05},
        {"level": "sequence_token", "low": 0.05, "high": 0.05},
    ),
    ("clipped", {"level": "sequence_sum"}, {"level": "sequence_sum"}),
    ("surrogate", {}, {}),
    ("sapo", {}, {}),
    ("sapo", {"level": "sequence"}, {"level": "sequence"}),
    ("vespo", {}, {}),
    ("topr", {}, {}),
    ("topr", {"clip_positive": 1.5}, {"positive": 1.5}),
    ("dppo", {}, {}),
    ("dppo", {"divergence": "kl", "bound": 0.01}, {"kind": "kl", "bound": 0.01}),
    ("opsm", {"threshold": 0.05}, {"threshold": 0.05}),
    ("kl_corrected", {}, {}),
    (
        "kl_corrected",
        {"level": "sequence", "estimator": "k2"},
        {"level": "sequence", "estimator": "k2"},
    ),
    ("adaptive_entropy", {"scale": 0.5}, {"scale": 0.5}),
    ("weighted_entropy", {}, {}),
    ("value", {}, {"clip": 0.2}),
    ("value", {"clip": None}, {}),
]
AGGREGATIONS = ["token_mean", "sequence_mean", "sequence_sum", "fixed_length"]
STREAMS = (
    "old_logprobs",
    "advantages",
    "engine_logprobs",
    "entropy_weight",
    "reward_variance",
    "old_values",
    "returns",
)
TRAINED = ("logprobs", "entropy", "values")
MODEL = (*TRAINED, "ref_logprobs")
MAX_LENGTH = 12


class Numbers:
    """Random inputs of a few sequences, as float64 tables [sequence][target]; `model` names are
    what a model would give.
    """

    def __init__(
        self, seed: int, scale: float = 1.0, lengths: tuple[int, ...] = (5, 1, 9, 3, 4)
    ) -> None:
        draw = np.random.default_rng(seed)
        self.lengths = lengths
        self.table: dict[str, list[np.ndarray]] = {
            "logprobs": [-np.abs(draw.normal(1, scale, n)) for n in lengths],
            "entropy": [np.abs(draw.normal(1, scale, n)) for n in lengths],
            "advantages": [np.full(n, np.float32(draw.normal())) for n in lengths],
        }
        for name in ("old_logprobs", "ref_logprobs"):
            self.table[name] = [
                x + np.float32(draw.normal(0, 0.3 * scale, len(x))) for x in self.table["logprobs"]
            ]
        for name in ("entropy_weight", "reward_variance", "old_values", "returns"):
            self.table[name] = [np.abs(draw.normal(0.5, 0.5, n)) for n in lengths]
        self.table["values"] = [x + draw.normal(0, 0.3, len(x)) for x in self.table["old_values"]]
        self.table["engine_logprobs"] = [
            x + draw.normal(0, 0.2, len(x)) for x in self.table["old_logprobs"]
        ]
        # streams travel as float32, so the reference has to see the same numbers
        for name in STREAMS:
            self.table[name] = [np.float32(x).astype(np.float64) for x in self.table[name]]

    def sequences(self) -> list[TokenSequence]:
        """The sequences: prompts of two tokens, ids that name (sequence, place) so that numbers
        can be looked up.
        """
        sequences = []
        for i, n in enumerate(self.lengths):
            ids = np.concatenate([[1, 2], 100 * (i + 1) + np.arange(n)])
            mask = np.arange(n + 2) >= 2
            streams = {k: np.concatenate([[0, 0], self.table[k][i]]) for k in STREAMS}
            sequences.append(TokenSequence(ids, mask, streams, row=str(i)))
        return sequences

    def outputs(
        self, micro: Forest, leaves: dict[str, list[torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """What a model would give for the targets of a micro-batch."""
        places = [(int(t) // 100 - 1, int(t) % 100) for t in micro.target]
        return {k: torch.stack([leaves[k][i][j] for i, j in places]) for k in MODEL}

    def leaves(self) -> dict[str, list[torch.Tensor]]:
        return {
            k: [
                torch.tensor(x, dtype=torch.float64, requires_grad=k != "ref_logprobs")
                for x in self.table[k]
            ]
            for k in MODEL
        }


def value_and_gradients(
    numbers: Numbers,
    objective: Objective,
    trees: list[Tree],
    max_tokens: int | None = None,
    ranks: int = 1,
) -> tuple[float, list[np.ndarray]]:
    """Loss and its gradients as the loop forms them; ranks > 1 spreads the trees and adds up
    the ranks' shares.
    """
    leaves = numbers.leaves()
    totals = objective.denominators(Batch(trees))
    value = 0.0
    for rank in range(ranks):
        part = Batch(trees[rank::ranks])
        for micro in part.split(max_tokens):
            micro.streams = {k: v.double() for k, v in micro.streams.items()}
            loss, _ = objective(numbers.outputs(micro, leaves), micro, totals)
            loss.backward()
            value += float(loss.detach())
    gradients = [
        x.grad.numpy() if x.grad is not None else np.zeros(len(x))
        for k in TRAINED
        for x in leaves[k]
    ]
    return value, gradients


def reference_value(
    numbers: Numbers, name: str, settings: dict[str, Any], aggregation: str, frozen: Numbers
) -> float:
    per_sequence = []
    for i in range(len(numbers.lengths)):
        s = {k: list(v[i]) for k, v in numbers.table.items()}
        s["frozen_probs"] = [math.exp(x) for x in frozen.table["logprobs"][i]]
        s["frozen_ratios"] = [
            math.exp(a - b)
            for a, b in zip(
                frozen.table["logprobs"][i], frozen.table["old_logprobs"][i], strict=True
            )
        ]
        per_sequence.append(getattr(reference, name)(s, **settings))
    return float(reference.aggregate(per_sequence, aggregation, MAX_LENGTH))


def make(name: str, settings: dict[str, Any], aggregation: str) -> Objective:
    return Objective([Component(name, settings, 1.0, aggregation)], max_length=MAX_LENGTH)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(
    ("name", "settings", "theirs"), CASES, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(CASES)]
)
def test_value_and_gradient_equal_the_reference(
    name: str, settings: dict[str, Any], theirs: dict[str, Any], aggregation: str
) -> None:
    for seed, scale in ((0, 1.0), (1, 0.01), (2, 4.0)):
        numbers = Numbers(seed, scale)
        trees = [Tree.build([s]) for s in numbers.sequences()]
        value, gradients = value_and_gradients(numbers, make(name, settings, aggregation), trees)
        expected = reference_value(numbers, name, theirs, aggregation, numbers)
        assert value == pytest.approx(expected, rel=1e-6, abs=1e-9)
        flat = [(k, i) for k in TRAINED for i in range(len(numbers.lengths))]
        frozen = Numbers(seed, scale)
        for (key, i), gradient in zip(flat, gradients, strict=True):
            for j in range(len(gradient)):
                step = 1e-6
                ends = []
                for sign in (1, -1):
                    moved = Numbers(seed, scale)
                    moved.table[key][i][j] += sign * step
                    ends.append(reference_value(moved, name, theirs, aggregation, frozen))
                assert gradient[j] == pytest.approx(
                    (ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-6
                )


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize(
    ("name", "settings", "theirs"), CASES, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(CASES)]
)
def test_invariance(
    name: str, settings: dict[str, Any], theirs: dict[str, Any], aggregation: str
) -> None:
    """Packing, order, sharing, micro-batch size and ranks change nothing."""
    numbers = Numbers(3)
    sequences = numbers.sequences()
    objective = make(name, settings, aggregation)
    alone = [Tree.build([s]) for s in sequences]
    value, gradients = value_and_gradients(numbers, objective, alone)
    ways = {
        "one tree": ([Tree.build(sequences, min_shared=1)], None, 1),
        "reversed": (alone[::-1], None, 1),
        "micro-batches": (alone, 7, 1),
        "one sequence a micro-batch": (alone, 1, 1),
        "a tree split by leaves": ([Tree.build(sequences, min_shared=1)], 9, 1),
        "three ranks": (alone, 8, 3),
    }
    for way, (trees, max_tokens, ranks) in ways.items():
        other, other_gradients = value_and_gradients(numbers, objective, trees, max_tokens, ranks)
        assert other == pytest.approx(value, rel=1e-9, abs=1e-12), way
        for a, b in zip(gradients, other_gradients, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=way)


def test_clipped_by_hand() -> None:
    """r = 1.5, A = 1: min(1.5, 1.2) = 1.2. r = 0.5, A = -1: min(-0.5, -0.8) = -0.8. r = 1.5, A
    = -1: -1.5.
    """
    ratio = torch.tensor([1.5, 0.5, 1.5])
    loss, told = registry.losses.get("clipped")(
        ratio.log(), torch.zeros(3), torch.tensor([1.0, -1.0, -1.0]), torch.tensor([0, 1, 2]), 3
    )
    torch.testing.assert_close(loss, torch.tensor([-1.2, 0.8, 1.5]))
    assert told["clip_ratio/high_mean"].tolist() == [1, 0, 0]
    assert told["clip_ratio/low_mean"].tolist() == [0, 1, 0]


def test_k3_is_never_negative_and_unbiased() -> None:
    """KL of two categorical distributions by hand: p = (.5, .3, .2), q = (.2, .5, .3); the mean
    of k3 under p is KL(p||q).
    """
    p, q = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    kl = registry.losses.get("kl")
    exact = float((p * (p / q).log()).sum())
    for estimator in ("k1", "k3"):
        value, _ = kl(p.log(), q.log(), estimator=estimator)
        assert float((p * value).sum()) == pytest.approx(exact, rel=1e-12)
    value, _ = kl(p.log(), q.log())
    assert bool((value >= 0).all())
    torch.testing.assert_close(kl(p.log(), p.log())[0], torch.zeros(3, dtype=torch.float64))


def test_zero_advantage_has_no_gradient_and_counts() -> None:
    """A tied group gives nothing but stays in the denominator, also when no forward pass is
    spent on it.
    """
    numbers = Numbers(4)
    for i in (1, 3):
        numbers.table["advantages"][i][:] = 0
    trees = [Tree.build([s]) for s in numbers.sequences()]
    objective = make("clipped", {}, "token_mean")
    _, gradients = value_and_gradients(numbers, objective, trees)
    idle = [t for t in trees if not t.streams["advantages"].any()]
    active = [t for t in trees if t.streams["advantages"].any()]
    assert (len(idle), len(active)) == (2, 3)
    totals = objective.denominators(Batch(active, idle))
    assert totals == objective.denominators(Batch(trees))
    assert not gradients[1].any() and not gradients[3].any()
    assert [objective.learns(t) for t in trees] == [
        bool(t.streams["advantages"].any()) for t in trees
    ]
    assert all(make("kl", {}, "token_mean").learns(t) for t in trees)


def test_extreme_values_stay_finite() -> None:
    big = torch.tensor([0.0, -50.0, -800.0], requires_grad=True)
    old = torch.tensor([-50.0, 0.0, -801.0])
    loss, _ = registry.losses.get("clipped")(
        big, old, torch.tensor([1.0, 1.0, -1.0]), torch.arange(3), 3, clip_max=3.0
    )
    loss.sum().backward()
    assert torch.isfinite(loss).all() and big.grad is not None and torch.isfinite(big.grad).all()


def test_cispo_counts_capped_weights_of_positive_advantages_alone() -> None:
    """As TRL: ratios e, e and 1 against a cap of 2, advantages 1, -1 and 1."""
    logprobs, old = torch.tensor([0.0, 0.0, 0.0]), torch.tensor([-1.0, -1.0, 0.0])
    cispo = registry.losses.bind("cispo", {"clip_max": 2.0})
    _, told = cispo(
        logprobs, old, torch.tensor([1.0, -1.0, 1.0]), torch.zeros(3, dtype=torch.long), 1
    )
    assert told["cispo_clip_ratio"].tolist() == [1, 0, 0]
