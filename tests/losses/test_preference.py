"""Every loss of pairs against a plain reference, finite differences, closed forms, and every
way of cutting a batch.
"""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain import registry
from posttrain.config import Component
from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.errors import ConfigError
from posttrain.training.objective import Objective

_spec = importlib.util.spec_from_file_location(
    "pair_reference", Path(__file__).with_name("reference_pairs.py")
)
assert _spec is not None and _spec.loader is not None
reference: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("dpo", {}, {}),
    ("dpo", {"beta": 0.5, "label_smoothing": 0.2}, {"beta": 0.5, "e": 0.2}),
    *(
        (name, {**settings, **divergence}, {**theirs, "under": kind})
        for name, settings, theirs in (
            ("dpo", {"label_smoothing": 0.2}, {"e": 0.2}),
            ("robust_dpo", {"beta": 0.3}, {"beta": 0.3}),
            ("dpo_norm", {}, {}),
            ("ipo", {}, {}),
            ("hinge_dpo", {}, {}),
            ("exo", {"label_smoothing": 0.01}, {"e": 0.01}),
            ("discopop", {"beta": 0.002, "temperature": 0.1}, {"beta": 0.002, "tau": 0.1}),
        )
        for divergence, kind in (
            ({"divergence": "forward_kl"}, ("forward_kl",)),
            ({"divergence": "js"}, ("js",)),
            ({"divergence": "alpha", "alpha": 0.3}, ("alpha", 0.3)),
        )
    ),
    *(
        (name, {}, {})
        for name in (
            "robust_dpo",
            "dpo_norm",
            "r_dpo",
            "dpop",
            "cal_dpo",
            "ipo",
            "hinge_dpo",
            "exo",
            "nca",
            "bco_pair",
            "sppo",
            "apo_zero",
            "apo_down",
            "discopop",
            "npo",
            "simpo",
            "alphapo",
            "cpo",
            "orpo",
            "chosen_nll",
        )
    ),
    ("cpo", {"label_smoothing": 0.1}, {"e": 0.1}),
]
IDS = [f"{name}-{i}" for i, (name, _, _) in enumerate(CASES)]
LENGTHS = [(5, 3), (1, 4), (9, 9), (2, 7)]


class Pairs:
    """Random log-probs of pairs, as tables [sequence][target] in float64; sequences 2i and 2i +
    1 are a pair.
    """

    def __init__(self, seed: int, scale: float = 1.0) -> None:
        draw = np.random.default_rng(seed)
        flat = [n for pair in LENGTHS for n in pair]
        self.logprobs = [-np.abs(draw.normal(1, scale, n)) - 0.01 for n in flat]
        self.ref = [x + draw.normal(0, 0.5 * scale, len(x)) for x in self.logprobs]

    def trees(self) -> list[Tree]:
        trees = []
        for i, lengths in enumerate(LENGTHS):
            pair = []
            for side, n in enumerate(lengths):
                ids = np.concatenate([[1, 2], 100 * (2 * i + side + 1) + np.arange(n)])
                pair.append(TokenSequence(ids, np.arange(n + 2) >= 2, row=f"{i} {side}"))
            trees.append(Tree.build(pair))
        return trees

    def leaves(self) -> list[torch.Tensor]:
        return [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in self.logprobs]

    def outputs(self, micro: Forest, leaves: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        places = [(int(t) // 100 - 1, int(t) % 100) for t in micro.target]
        return {
            "logprobs": torch.stack([leaves[i][j] for i, j in places]),
            "ref_logprobs": torch.tensor([self.ref[i][j] for i, j in places], dtype=torch.float64),
        }

    def expected(self, name: str, settings: dict[str, Any]) -> float:
        values = []
        for i, (n, m) in enumerate(LENGTHS):
            chosen, rejected = math.fsum(self.logprobs[2 * i]), math.fsum(self.logprobs[2 * i + 1])
            c, r = chosen - math.fsum(self.ref[2 * i]), rejected - math.fsum(self.ref[2 * i + 1])
            pair = {"chosen": chosen, "rejected": rejected, "c": c, "r": r, "n": n, "m": m}
            pair = reference.under(pair, *settings.get("under", ()))
            values.append(
                getattr(reference, name)(
                    pair, **{k: v for k, v in settings.items() if k != "under"}
                )
            )
        return math.fsum(values) / len(values)


def objective(name: str, settings: dict[str, Any]) -> Objective:
    return Objective([Component(name, settings)], roles=("chosen", "rejected"))


def run(
    pairs: Pairs, goal: Objective, trees: list[Tree], max_tokens: int | None = None, ranks: int = 1
) -> tuple[float, list[np.ndarray]]:
    leaves = pairs.leaves()
    totals = goal.denominators(Batch(trees, whole="tree"))
    value = 0.0
    for rank in range(ranks):
        for micro in Batch(trees[rank::ranks], whole="tree").split(max_tokens):
            loss, _ = goal(pairs.outputs(micro, leaves), micro, totals)
            if loss.requires_grad:
                loss.backward()
            value += float(loss.detach())
    return value, [x.grad.numpy() if x.grad is not None else np.zeros(len(x)) for x in leaves]


@pytest.mark.parametrize(("name", "settings", "theirs"), CASES, ids=IDS)
def test_value_and_gradient_equal_the_reference(
    name: str, settings: dict[str, Any], theirs: dict[str, Any]
) -> None:
    for seed, scale in ((0, 1.0), (1, 0.01), (2, 4.0)):
        pairs = Pairs(seed, scale)
        value, gradients = run(pairs, objective(name, settings), pairs.trees())
        assert value == pytest.approx(pairs.expected(name, theirs), rel=1e-6, abs=1e-9)
        for i, gradient in enumerate(gradients):
            for j in range(len(gradient)):
                ends = []
                for sign in (1, -1):
                    moved = Pairs(seed, scale)
                    moved.logprobs[i][j] += sign * 1e-6
                    ends.append(moved.expected(name, theirs))
                assert gradient[j] == pytest.approx(
                    (ends[0] - ends[1]) / 2e-6, rel=2e-4, abs=1e-6 * max(1, abs(value))
                )


@pytest.mark.parametrize(("name", "settings", "theirs"), CASES, ids=IDS)
def test_invariance(name: str, settings: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Order, micro-batches (down to budgets below a pair) and ranks change nothing."""
    pairs = Pairs(3)
    goal, trees = objective(name, settings), pairs.trees()
    value, gradients = run(pairs, goal, trees)
    for cut in (
        {"trees": trees[::-1]},
        {"trees": trees, "max_tokens": 1},
        {"trees": trees, "max_tokens": 12},
        {"trees": trees, "ranks": 2},
        {"trees": trees, "ranks": 3, "max_tokens": 9},
    ):
        other, others = run(pairs, goal, **cut)
        assert other == pytest.approx(value, rel=1e-12)
        for a, b in zip(gradients, others, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", sorted({n for n, _, _ in CASES}))
def test_extreme_inputs_stay_finite(name: str) -> None:
    """Log-ratios of thousands of nats, and probabilities next to one, in float32."""
    for scale in (1e-7, 200.0):
        pairs = Pairs(5, scale)
        leaves = [
            torch.tensor(
                np.minimum(x + (0.01 if scale < 1 else 0), -1e-9),
                dtype=torch.float32,
                requires_grad=True,
            )
            for x in pairs.logprobs
        ]
        micro = Forest.pack(pairs.trees())
        outputs = {k: v.float() for k, v in pairs.outputs(micro, leaves).items()}
        goal = objective(name, {})
        loss, _ = goal(outputs, micro, goal.denominators(Batch(pairs.trees())))
        loss.backward()
        assert torch.isfinite(loss) and all(
            torch.isfinite(x.grad).all() for x in leaves if x.grad is not None
        )


def test_hand_worked_numbers() -> None:
    """c = 2, r = -1, beta 0.1: -log s(0.3) = 0.554355; the hinge 0.7; at no difference DPO is
    log 2.
    """
    c, r, zero = (torch.tensor([x], dtype=torch.float64) for x in (2.0, -1.0, 0.0))
    loss = {n: registry.losses.get(n) for n in ("dpo", "hinge_dpo", "simpo")}
    assert float(loss["dpo"](c, r, zero, zero)[0]) == pytest.approx(0.5543552444685271)
    assert float(loss["hinge_dpo"](c, r, zero, zero)[0]) == pytest.approx(0.7)
    assert float(loss["dpo"](zero, zero, zero, zero)[0]) == pytest.approx(math.log(2))
    told = loss["dpo"](c, r, zero, zero)[1]
    assert {k: round(float(v), 6) for k, v in told.items()} == {
        "rewards/chosen": 0.2,
        "rewards/rejected": -0.1,
        "rewards/margins": 0.3,
        "rewards/accuracies": 1.0,
    }


DIVERGING = ("dpo", "robust_dpo", "dpo_norm", "ipo", "hinge_dpo", "exo", "discopop")


def test_losses_that_subtract_two_completions_take_a_divergence_and_no_others() -> None:
    """Beyond a difference, as in nca or apo, the unknown constant of the prompt would stay."""
    settings = {name: entry.settings for name, entry in registry.losses.entries().items()}
    assert {name for name, s in settings.items() if {"divergence", "alpha"} <= s.keys()} == set(
        DIVERGING
    )


@pytest.mark.parametrize("name", DIVERGING)
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"divergence": "alpha", "alpha": 2.0}, "alpha is 2.0; it must be at most 1"),
        ({"divergence": "alpha", "alpha": math.nan}, "alpha: nan is not finite"),
        ({"divergence": "alpha", "alpha": -math.inf}, "alpha: -inf is not finite"),
        (
            {"alpha": 0.7},
            "alpha is 0.7, but divergence reverse_kl has none; leave it out or set divergence: "
            "alpha",
        ),
        ({"divergence": "js", "alpha": 0.7}, "alpha is 0.7, but divergence js has none"),
        ({"divergence": "kl"}, "'kl' is not a choice; Known: alpha, forward_kl, js, reverse_kl"),
    ],
)
def test_divergences_that_cannot_be_are_refused_before_weights_load(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        objective(name, settings)


def test_the_optimum_under_a_divergence_is_where_its_scores_are_the_rewards() -> None:
    """Two responses whose rewards differ by 1: beta (f(c) - f(r)) = 1 at the optimum, whatever
    the divergence.
    """
    dpo, ref = registry.losses.get("dpo"), torch.tensor([0.3, 0.7]).double().log()
    cases: list[dict[str, Any]] = [
        {},
        {"divergence": "forward_kl"},
        {"divergence": "js"},
        {"divergence": "alpha", "alpha": 0.3},
    ]
    for settings in cases:
        low, high = -20.0, 20.0
        for _ in range(100):  # the gradient of the expected loss grows with the logit
            logit = torch.tensor((low + high) / 2, dtype=torch.float64, requires_grad=True)
            pi = torch.stack([logit, torch.zeros_like(logit)]).log_softmax(0)
            likes = torch.sigmoid(torch.tensor(1.0, dtype=torch.float64))
            first, second = (
                dpo(pi[i], pi[1 - i], ref[i], ref[1 - i], **settings)[0] for i in (0, 1)
            )
            (slope,) = torch.autograd.grad(likes * first + (1 - likes) * second, logit)
            middle = float(logit.detach())
            low, high = (low, middle) if slope > 0 else (middle, high)
        c, r = (pi - ref).tolist()
        kind, alpha = settings.get("divergence", "reverse_kl"), settings.get("alpha", math.nan)
        assert 0.1 * (reference.f(c, kind, alpha) - reference.f(r, kind, alpha)) == pytest.approx(
            1.0, abs=1e-8
        )


def test_dpo_on_exact_preferences_lands_on_the_tilted_reference() -> None:
    """Three responses, rewards (1, .2, -.5), reference (.5, .3, .2), beta .5, Bradley-Terry
    preference probabilities:

    the optimum is ref e^(r/beta) / Z = (.87638, .10616, .01745), where the gradient is zero.
    """
    rewards, ref, beta = (
        torch.tensor([1.0, 0.2, -0.5]).double(),
        torch.tensor([0.5, 0.3, 0.2]).double(),
        0.5,
    )
    dpo = registry.losses.get("dpo")
    first, second = torch.tensor([(i, j) for i in range(3) for j in range(3) if i != j]).T
    weight = torch.sigmoid(rewards[first] - rewards[second])

    def loss(theta: torch.Tensor) -> torch.Tensor:
        logp = theta.log_softmax(0)
        return (
            weight
            * dpo(logp[first], logp[second], ref.log()[first], ref.log()[second], beta=beta)[0]
        ).sum()

    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [theta], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(theta)
        value.backward()
        return value

    optimizer.step(closure)
    goal = ref * (rewards / beta).exp()
    assert theta.softmax(0).tolist() == pytest.approx((goal / goal.sum()).tolist(), abs=1e-5)
    assert theta.softmax(0).tolist() == pytest.approx([0.87638, 0.10616, 0.01745], abs=2e-5)
    assert loss(goal.log().requires_grad_()).item() == pytest.approx(loss(theta).item())


def test_pair_losses_belong_to_pairs() -> None:
    with pytest.raises(
        ConfigError,
        match="'dpo' compares a chosen with a rejected completion; it belongs to method dpo",
    ):
        Objective([Component("dpo")])
    with pytest.raises(ConfigError, match="one value a pair"):
        Objective([Component("dpo", {}, 1.0, "token_mean")], roles=("chosen", "rejected"))


def test_a_mix_is_the_weighted_sum() -> None:
    pairs = Pairs(7)
    mix = Objective(
        [Component("orpo"), Component("chosen_nll", {}, 0.5)], roles=("chosen", "rejected")
    )
    value, _ = run(pairs, mix, pairs.trees())
    assert not mix.needs_reference
    assert value == pytest.approx(
        pairs.expected("orpo", {}) + 0.5 * pairs.expected("chosen_nll", {})
    )
