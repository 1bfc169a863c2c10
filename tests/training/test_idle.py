"""Metrics of groups whose rewards tie, which get no training pass: numbers by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.averages import Averages
from posttrain.config import Component
from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.losses.reduce import Totals
from posttrain.training.idle import idle_metrics
from posttrain.training.loop import State, train
from posttrain.training.objective import Objective
from posttrain.training.optim import Optimizer

OLD_OF_CLIPPED = -1.0  # the log-prob is 0, so that the ratio is e, above 1.2


class TableModel:
    """Each token has a log-prob of its own, a parameter, and an entropy of a tenth of its id."""

    critic = None
    device = "cpu"
    weights_version = 0

    def __init__(self) -> None:
        self.table = torch.nn.Parameter(torch.zeros(10))
        self.hf = torch.nn.Dropout(0.5)

    def forward(
        self, micro: Forest, needs: Any, temperature: float = 1.0
    ) -> dict[str, torch.Tensor]:
        logprobs = self.hf(torch.ones(len(micro.target))) * 0 + self.table[micro.target]
        return {"logprobs": logprobs, "entropy": micro.target / 10}

    def backward(self, loss: torch.Tensor, micro: Any) -> None:
        loss.backward()

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        return [self.table]


def sequence(ids: list[int], advantage: float, old: list[float], gap: list[float]) -> TokenSequence:
    """A prompt of one token and a completion."""
    streams = {
        "advantages": np.full(len(ids), advantage),
        "old_logprobs": np.array(old),
        "engine_logprobs": np.array(old) + np.array(gap),
    }
    return TokenSequence(
        np.array([0, *ids]),
        np.arange(len(ids) + 1) > 0,
        {k: np.concatenate([[0.0], v]) for k, v in streams.items()},
    )


def informative() -> Tree:
    return Tree.build(
        [
            sequence([1, 2], 1.0, [OLD_OF_CLIPPED, 0.0], [0.1, 0.0]),
            sequence([3], -1.0, [0.0], [0.0]),
        ]
    )


def tied() -> Tree:
    """Its ratios are beyond the bound too, but TRL counts a token as clipped by the sign of its
    advantage.
    """
    return Tree.build(
        [
            sequence([4], 0.0, [OLD_OF_CLIPPED], [-0.5]),
            sequence([5, 6], 0.0, [OLD_OF_CLIPPED, 0.0], [0.0, 0.0]),
        ]
    )


class Steps:
    """The same batch at each step."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def batches(self, step: int) -> Iterator[Batch]:
        yield self.batch

    def updated(self, model: Any) -> None:
        """Nothing samples from this model."""

    def metrics(self) -> Averages:
        return Averages()


def step(batch: Batch, **settings: Any) -> tuple[dict[str, float], torch.Tensor]:
    """Metrics of one step, and the weights after it."""
    model = TableModel()
    objective = Objective([Component("clipped")], **settings)
    optimizer = Optimizer([model.table], steps=1, learning_rate=0.1)
    told: list[dict[str, float]] = []
    train(
        model,
        Steps(batch),
        objective,
        optimizer,
        [lambda _, metrics: told.append(metrics)],
        State(),
        steps=1,
        max_tokens=100,
    )
    return told[0], model.table.detach()


def test_means_are_over_all_completion_tokens_of_a_step() -> None:
    told, _ = step(Batch([informative()], [tied()]))
    assert told["entropy"] == pytest.approx((1 + 2 + 3 + 4 + 5 + 6) / 10 / 6)
    assert told["clip_ratio/high_mean"] == pytest.approx(1 / 6)
    assert told["clip_ratio/region_mean"] == pytest.approx(1 / 6)
    assert told["clip_ratio/low_mean"] == 0
    assert told["sampling/sampling_logp_difference/mean"] == pytest.approx((0.1 + 0.5) / 6)
    assert told["sampling/sampling_logp_difference/max"] == pytest.approx(0.5)


def test_a_step_whose_groups_all_tie_reports_the_same_names() -> None:
    told, weights = step(Batch([], [tied()]))
    assert told["entropy"] == pytest.approx((4 + 5 + 6) / 10 / 3)
    assert told["clip_ratio/high_mean"] == 0
    assert told["sampling/sampling_logp_difference/mean"] == pytest.approx(0.5 / 3)
    assert not weights.any()


def test_without_the_pass_the_names_say_what_is_left_out() -> None:
    told, weights = step(Batch([informative()], [tied()]), measure_idle=False)
    assert told["entropy/informative_groups"] == pytest.approx((1 + 2 + 3) / 10 / 3)
    assert told["clip_ratio/high_mean/informative_groups"] == pytest.approx(1 / 3)
    assert told["sampling/sampling_logp_difference/mean/informative_groups"] == pytest.approx(
        0.1 / 3
    )
    assert told["sampling/sampling_logp_difference/max/informative_groups"] == pytest.approx(0.1)
    assert "entropy" not in told and "clip_ratio/high_mean" not in told
    measured, same = step(Batch([informative()], [tied()]))
    assert torch.equal(weights, same) and weights.any()
    assert told["loss"] == measured["loss"] and told["grad_norm"] == measured["grad_norm"]


def test_the_pass_draws_no_random_number_and_leaves_no_gradient() -> None:
    model, objective = TableModel(), Objective([Component("clipped")])
    before = torch.get_rng_state()
    told = idle_metrics(model, objective, Batch([], [tied()]), Totals(3.0, 2, 1), 100)
    assert torch.equal(torch.get_rng_state(), before) and model.hf.training
    assert model.table.grad is None
    assert "loss" not in told.means() and told.means()["entropy"] == pytest.approx(0.5)


def test_the_gap_between_engines_is_of_the_policy_that_sampled() -> None:
    """After the first of several updates the policy has moved; that is no difference between
    engines.
    """
    model, objective = TableModel(), Objective([Component("clipped")])
    with torch.no_grad():
        model.table += 3.0
    told = idle_metrics(model, objective, Batch([], [tied()]), Totals(3.0, 2, 1), 100).means()
    assert told["sampling/sampling_logp_difference/max"] == pytest.approx(0.5)
