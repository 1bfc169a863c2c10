"""A weighted sum of losses, averaged by the counts of the whole step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.config import Component
from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.errors import ConfigError
from posttrain.inputs import IMITATED
from posttrain.training.objective import Objective

ADVANTAGES = [[2.0, -1.0], [3.0]]
LOGPROBS = [[-1.0, -2.0], [-4.0]]


def sequence(first: int, advantages: Sequence[float], **streams: Sequence[float]) -> TokenSequence:
    """One prompt token, then a target for each advantage."""
    named = {"advantages": advantages, **streams}
    count = len(advantages)
    return TokenSequence(
        np.arange(first, first + count + 1),
        np.arange(count + 1) > 0,
        {name: np.array([0.0, *numbers]) for name, numbers in named.items()},
        row=f"row {first}",
    )


def trees() -> list[Tree]:
    return [Tree.build([sequence(10 * i, a)]) for i, a in enumerate(ADVANTAGES)]


def value(
    objective: Objective, some: list[Tree], logprobs: list[float], totals: Any = None
) -> tuple[torch.Tensor, dict[str, float], torch.Tensor]:
    """Loss, metrics and gradient on trees whose targets have these log-probs."""
    leaf = torch.tensor(logprobs, requires_grad=True)
    totals = totals or objective.denominators(Batch(some))
    loss, metrics = objective({"logprobs": leaf}, Forest.pack(some), totals)
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), metrics.means(), leaf.grad


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token_mean", (2.0 - 2.0 + 12.0) / 3),
        ("sequence_mean", ((2.0 - 2.0) / 2 + 12.0) / 2),
        ("sequence_sum", (2.0 - 2.0 + 12.0) / 2),
        ("fixed_length", (2.0 - 2.0 + 12.0) / (2 * 5)),
    ],
)
def test_averages_by_hand(aggregation: Any, expected: float) -> None:
    """-advantage * log-prob: 2, -2 in one sequence and 12 in the other."""
    objective = Objective([Component("reinforce")], aggregation=aggregation, max_length=5)
    loss, metrics, _ = value(objective, trees(), [-1.0, -2.0, -4.0])
    assert float(loss) == pytest.approx(expected) == metrics["loss"]


def test_terms_are_weighted_and_logged_apart() -> None:
    objective = Objective([Component("reinforce", weight=0.5), Component("nll", weight=2.0)])
    loss, metrics, gradient = value(objective, trees(), [-1.0, -2.0, -4.0])
    assert metrics["loss/reinforce"] == pytest.approx(4.0)
    assert metrics["loss/nll"] == pytest.approx(7 / 3)
    assert float(loss) == pytest.approx(0.5 * 4.0 + 2.0 * 7 / 3)
    expected = [(-0.5 * a - 2.0) / 3 for a in (2.0, -1.0, 3.0)]
    assert gradient.tolist() == pytest.approx(expected)


def test_shares_of_micro_batches_add_up() -> None:
    objective = Objective([Component("reinforce")], aggregation="sequence_mean")
    totals = objective.denominators(Batch(trees()))
    whole = value(objective, trees(), [-1.0, -2.0, -4.0])
    parts = [value(objective, [t], p, totals) for t, p in zip(trees(), LOGPROBS, strict=True)]
    assert sum(float(p[0]) for p in parts) == pytest.approx(float(whole[0]))
    assert torch.cat([p[2] for p in parts]).tolist() == pytest.approx(whole[2].tolist())


def test_sampled_targets_are_averaged_without_the_given_ones() -> None:
    some = [Tree.build([sequence(0, [2.0, 2.0, 2.0], given=[1.0, 0.0, 0.0])])]
    objective = Objective(
        [Component("reinforce"), Component("given_nll", weight=3.0)], marks=["given"]
    )
    _, metrics, gradient = value(objective, some, [-1.0, -2.0, -4.0])
    assert metrics["loss/reinforce"] == pytest.approx((4.0 + 8.0) / 2)
    assert metrics["loss/given_nll"] == pytest.approx(1.0)
    assert gradient.tolist() == pytest.approx([-3.0, -1.0, -1.0])


def test_a_micro_batch_without_targets_of_a_term_adds_nothing() -> None:
    some = [
        Tree.build([sequence(0, [2.0], given=[0.0])]),
        Tree.build([sequence(9, [2.0], given=[1.0])]),
    ]
    objective = Objective([Component("given_nll")], marks=["given"])
    totals = objective.denominators(Batch(some))
    loss, _, gradient = value(objective, some[:1], [-1.0], totals)
    assert float(loss) == 0.0 and gradient.tolist() == [0.0]


@pytest.mark.parametrize(
    ("losses", "options", "whole", "reference"),
    [
        (["nll"], {}, None, False),
        (["kl"], {}, None, True),
        (["dpo"], {"roles": ("chosen", "rejected")}, "tree", True),
        (["simpo"], {"roles": ("chosen", "rejected")}, "tree", False),
        (["mrt"], {"groups": True}, "tree", False),
        (["nll", "aot"], {"roles": ("chosen", "rejected")}, "batch", True),
    ],
)
def test_what_the_losses_ask_for(
    losses: list[str], options: dict[str, Any], whole: str | None, reference: bool
) -> None:
    objective = Objective([Component(name) for name in losses], **options)
    assert objective.whole == whole and objective.needs_reference is reference
    assert {"logprobs", "entropy"} <= objective.needs
    assert "entropy_gradient" not in objective.needs


def test_an_entropy_that_is_trained_carries_a_gradient() -> None:
    assert "entropy_gradient" in Objective([Component("entropy_bonus")]).needs


@pytest.mark.parametrize(
    ("losses", "options", "named"),
    [
        ([], {}, "losses"),
        (["dpo"], {}, "'dpo'"),
        (["plackett_luce_dpo"], {}, "'plackett_luce_dpo'"),
        (["reinforce"], {"carries": IMITATED}, "'reinforce'.*'advantages'"),
    ],
)
def test_losses_that_do_not_fit_the_method(
    losses: list[str], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        Objective([Component(name) for name in losses], **options)


def test_a_tree_with_equal_rewards_teaches_nothing() -> None:
    tied = Tree.build([sequence(0, [0.0, 0.0])])
    assert not Objective([Component("reinforce")]).learns(tied)
    assert Objective([Component("reinforce")]).learns(trees()[0])
    assert Objective([Component("reinforce"), Component("kl")]).learns(tied)
    assert not Objective([Component("reinforce"), Component("kl", weight=0.0)]).learns(tied)


def test_weights_of_tokens_need_losses_of_tokens() -> None:
    weighted = [sequence(0, [1.0, 1.0], weights=[1.0, 0.5])]
    Objective([Component("nll")]).check_weights(weighted)
    pairs = Objective([Component("dpo")], roles=("chosen", "rejected"))
    with pytest.raises(ConfigError, match="'dpo'.*row 0"):
        pairs.check_weights(weighted)
    pairs.check_weights([sequence(0, [1.0, 1.0], weights=[1.0, 1.0])])


def test_the_gap_to_the_sampler_is_that_of_the_steps_start() -> None:
    some = [Tree.build([sequence(0, [1.0, 1.0], engine_logprobs=[-1.5, -2.0])])]
    _, metrics, _ = value(Objective([Component("reinforce")]), some, [-1.0, -2.0])
    assert metrics["sampling/sampling_logp_difference/mean"] == pytest.approx(0.25)
    assert metrics["sampling/sampling_logp_difference/max"] == pytest.approx(0.5)
    streams = {"engine_logprobs": [-1.5, -2.0], "old_logprobs": [-1.5, -2.0]}
    some = [Tree.build([sequence(0, [1.0, 1.0], **streams)])]
    _, metrics, _ = value(Objective([Component("reinforce")]), some, [-1.0, -2.0])
    assert metrics["sampling/sampling_logp_difference/max"] == 0.0


def test_metrics_of_trained_groups_alone_say_so() -> None:
    objective = Objective([Component("surrogate")], measure_idle=False)
    _, metrics, _ = value(objective, trees(), [-1.0, -2.0, -4.0])
    others = metrics.keys() - {"loss"}
    assert "loss" in metrics and all(n.endswith("/informative_groups") for n in others)
