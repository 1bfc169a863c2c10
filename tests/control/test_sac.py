"""Losses of soft actor-critic: hand-worked numbers, and what an update changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posttrain.control.replay import Transitions
from posttrain.control.sac import (
    SACConfig,
    SoftActorCritic,
    actor_loss,
    critic_loss,
    entropy_loss,
    soft_target,
    squashed,
)
from posttrain.errors import ConfigError


def batch(count: int = 16, seed: int = 0) -> Transitions:
    draw = torch.Generator().manual_seed(seed)
    return Transitions(
        torch.randn(count, 3, generator=draw),
        2 * torch.rand(count, 1, generator=draw) - 1,
        torch.randn(count, generator=draw),
        torch.randn(count, 3, generator=draw),
        torch.zeros(count),
    )


def test_losses_by_hand() -> None:
    two = torch.tensor
    target = soft_target(
        two([1.0, 1.0]),
        two([0.0, 1.0]),
        (two([3.0, 3.0]), two([2.0, 2.0])),
        two([-1.0, -1.0]),
        gamma=0.5,
        alpha=0.2,
    )
    np.testing.assert_allclose(target, [1 + 0.5 * (2 + 0.2), 1.0])
    loss = critic_loss((two([1.0, 2.0]), two([0.0, 0.0])), two([1.0, 0.0]))
    assert float(loss) == pytest.approx(2.0 + 0.5)
    loss = actor_loss(two([-1.0, 1.0]), (two([1.0, 4.0]), two([2.0, 3.0])), 0.5)
    assert float(loss) == pytest.approx(((-0.5 - 1) + (0.5 - 3)) / 2)


def test_alpha_rises_where_the_entropy_is_below_its_target() -> None:
    for logprob, sign in ((2.0, -1.0), (-4.0, 1.0)):  # H = -1: entropy -2 and 4
        log_alpha = torch.tensor(0.3, requires_grad=True)
        loss = entropy_loss(log_alpha, torch.tensor([logprob]), -1.0)
        loss.backward()
        assert float(loss) == pytest.approx(-np.exp(0.3) * (logprob - 1))
        assert np.sign(float(log_alpha.grad)) == sign  # type: ignore[arg-type]


def test_the_density_of_squashed_actions_integrates_to_1() -> None:
    mean, log_std = torch.tensor([[0.4]]).double(), torch.tensor([[-0.3]]).double()
    raw = torch.linspace(-9, 9, 20001).double()[:, None]
    noise = (raw - mean) / log_std.exp()
    actions, logprobs = squashed(mean.expand_as(raw), log_std.expand_as(raw), noise)
    total = torch.trapezoid(logprobs.exp(), actions[:, 0])
    assert float(total) == pytest.approx(1, abs=1e-4)
    far = squashed(torch.zeros(1, 1), torch.zeros(1, 1), torch.full((1, 1), 40.0))
    assert torch.isfinite(far[1]).all()


def test_an_update_is_that_of_the_sum_of_weighted_losses() -> None:
    real, predicted = batch(), batch(4, seed=1)
    plain, none, whole = (SoftActorCritic(3, [-1.0], [1.0], SACConfig(hidden=8)) for _ in range(3))
    plain.update(real)
    none.update(real, predicted, 0.0)
    whole.update(real, predicted, 0.25)
    # Without weight the critics are those of the real batch alone: noise is drawn in its order.
    for one, two in zip(plain.critics.parameters(), none.critics.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(plain.critics.parameters(), whole.critics.parameters(), strict=True)
    )


def test_critics_take_no_gradient_of_the_actor_and_targets_follow() -> None:
    agent = SoftActorCritic(3, [-2.0], [2.0], SACConfig(hidden=8, tau=0.5))
    before = [p.clone() for p in agent.targets.parameters()]
    losses = agent.update(batch())
    assert {"loss/critics", "loss/actor", "alpha"} == set(losses)
    for target, old, critic in zip(
        agent.targets.parameters(), before, agent.critics.parameters(), strict=True
    ):
        torch.testing.assert_close(target, (old + critic.detach()) / 2)
    states = np.zeros((5, 3))
    assert np.abs(agent.act(states)).max() <= 2 and agent.act(states).std() > 0
    assert agent.act(states, greedy=True).std() == 0


def test_a_restored_agent_goes_on_alike() -> None:
    one, two = (
        SoftActorCritic(3, [-1.0], [1.0], SACConfig(hidden=8)),
        SoftActorCritic(3, [-1.0], [1.0], SACConfig(hidden=8), seed=9),
    )
    one.update(batch())
    two.restore(one.state())
    first, second = one.update(batch(seed=2)), two.update(batch(seed=2))
    assert first == second
    np.testing.assert_array_equal(one.act(np.ones((2, 3))), two.act(np.ones((2, 3))))


def test_wrong_settings_are_refused() -> None:
    for settings in ({"gamma": 1.0}, {"tau": 0.0}, {"policy_rate": 0.0}, {"hidden": 0}):
        with pytest.raises(ConfigError):
            SACConfig(**settings)  # type: ignore[arg-type]
