"""Soft actor-critic (Haarnoja et al., arXiv 1801.01290, 1812.05905), on two replays.

    y = r + gamma (1 - end) (min_j Q'_j(s', a') - alpha log pi(a'|s')),      a' ~ pi(.|s')
    L_Q = mean (Q_1 - y)^2 + mean (Q_2 - y)^2
    L_pi = mean (alpha log pi(a|s) - min_j Q_j(s, a)),      a ~ pi(.|s)
    L_alpha = -alpha mean (log pi(a|s) + H)

Predicted transitions (DICL-SAC) are a second batch, whose losses are multiplied by a weight.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from posttrain.control.replay import Transitions
from posttrain.errors import ConfigError

_LOG_STD = (-5.0, 2.0)


@dataclass(frozen=True, slots=True)
class SACConfig:
    """Settings of soft actor-critic.

    Attributes:
        gamma: discount. tau: share of the critic that its target takes over per update.
        policy_rate, critic_rate: learning rates of the actor (and of alpha), and of the critic.
        hidden: width of the two hidden layers of each network.
        start_alpha: weight of the entropy at the start; it is trained.
        target_entropy: H in nats; None is minus the number of actions.
    """

    gamma: float = 0.99
    tau: float = 0.005
    policy_rate: float = 3e-4
    critic_rate: float = 1e-3
    hidden: int = 256
    start_alpha: float = 1.0
    target_entropy: float | None = None

    def __post_init__(self) -> None:
        shares = 0 <= self.gamma < 1 and 0 < self.tau <= 1
        if not shares or min(self.policy_rate, self.critic_rate, self.start_alpha) <= 0:
            raise ConfigError(
                f"gamma {self.gamma}, tau {self.tau}, rates {self.policy_rate} and "
                f"{self.critic_rate}, start_alpha {self.start_alpha}; gamma is from 0 to below 1, "
                "tau above 0 to 1, the others above 0"
            )
        if self.hidden < 1:
            raise ConfigError(f"hidden is {self.hidden}; a layer has at least 1 unit")


def soft_target(
    rewards: Tensor,
    ends: Tensor,
    next_values: tuple[Tensor, Tensor],
    next_logprobs: Tensor,
    *,
    gamma: float,
    alpha: float | Tensor,
) -> Tensor:
    """y = r + gamma (1 - end) (min(Q'_1, Q'_2) - alpha log pi), [B]; without gradient."""
    soft = torch.minimum(*next_values) - alpha * next_logprobs
    return (rewards + gamma * (1 - ends) * soft).detach()


def critic_loss(values: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    """Sum over both critics of the mean squared error, from [B]."""
    return (values[0] - target).square().mean() + (values[1] - target).square().mean()


def actor_loss(logprobs: Tensor, values: tuple[Tensor, Tensor], alpha: float | Tensor) -> Tensor:
    """mean (alpha log pi - min(Q_1, Q_2)), from [B]."""
    return (alpha * logprobs - torch.minimum(*values)).mean()


def entropy_loss(log_alpha: Tensor, logprobs: Tensor, target_entropy: float) -> Tensor:
    """-alpha mean (log pi + H); its gradient raises alpha where the entropy is below H."""
    return -(log_alpha.exp() * (logprobs.detach() + target_entropy)).mean()


def squashed(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """tanh of a normal sample, in (-1, 1), and its log density.

        u = mean + std noise,  a = tanh(u),  log pi(a) = log N(u) - sum log(1 - a^2)

    with log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), exact for large u.

    Args:
        mean, log_std, noise: [B, A].

    Returns:
        actions [B, A], log densities [B].
    """
    raw = mean + log_std.exp() * noise
    normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    bend = 2 * (math.log(2) - raw - nn.functional.softplus(-2 * raw))
    return torch.tanh(raw), (normal - bend).sum(-1)


class SoftActorCritic:
    """An actor, two critics and their targets. Actions are scaled to the bounds of the space.

    Args:
        num_states: D. low, high: bounds of the actions, [A] each. seed: of weights and noise.
    """

    def __init__(
        self,
        num_states: int,
        low: ArrayLike,
        high: ArrayLike,
        config: SACConfig = SACConfig(),
        *,
        seed: int = 0,
    ) -> None:
        self.config = config
        self.low = torch.as_tensor(np.asarray(low), dtype=torch.float32)
        self.high = torch.as_tensor(np.asarray(high), dtype=torch.float32)
        count = len(self.low)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = _network(num_states, config.hidden, 2 * count)
            self.critics = nn.ModuleList(
                _network(num_states + count, config.hidden, 1) for _ in range(2)
            )
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = torch.tensor(math.log(config.start_alpha), requires_grad=True)
        entropy = config.target_entropy
        self.target_entropy = -float(count) if entropy is None else entropy
        self.noise = torch.Generator().manual_seed(seed)
        self._optimizers = {
            "actor": torch.optim.Adam(self.actor.parameters(), lr=config.policy_rate),
            "critics": torch.optim.Adam(self.critics.parameters(), lr=config.critic_rate),
            "alpha": torch.optim.Adam([self.log_alpha], lr=config.policy_rate),
        }

    def act(self, states: NDArray[np.float64], *, greedy: bool = False) -> NDArray[np.float32]:
        """Actions [B, A] of states [B, D]: sampled, or tanh of the mean."""
        with torch.no_grad():
            rows = torch.as_tensor(np.asarray(states), dtype=torch.float32)
            mean, _ = self._moments(rows)
            actions = torch.tanh(mean) if greedy else self._sample(rows)[0]
            return self._bounded(actions).numpy()

    def update(
        self, real: Transitions, predicted: Transitions | None = None, weight: float = 0.0
    ) -> dict[str, float]:
        """One update of critics, actor and alpha.

        Args:
            real: a batch of what was seen. predicted: of what was predicted, or None.
            weight: what the losses of `predicted` are multiplied by.

        Returns:
            losses and alpha.
        """
        batches = [(real, 1.0)] if predicted is None else [(real, 1.0), (predicted, weight)]
        of_critics = torch.zeros(())
        for batch, w in batches:
            of_critics = of_critics + w * self._critic_loss(batch)
        self._step("critics", of_critics)
        self.critics.requires_grad_(False)  # the actor's loss passes through them
        of_actor, logprobs = torch.zeros(()), []
        for batch, w in batches:
            actions, logprob = self._sample(batch.states)
            values = self._values(self.critics, batch.states, actions)
            of_actor = of_actor + w * actor_loss(logprob, values, self.log_alpha.exp().detach())
            logprobs.append(logprob)
        self._step("actor", of_actor)
        self.critics.requires_grad_(True)
        self._step("alpha", entropy_loss(self.log_alpha, logprobs[0], self.target_entropy))
        with torch.no_grad():
            for target, weight_now in zip(
                self.targets.parameters(), self.critics.parameters(), strict=True
            ):
                target.lerp_(weight_now, self.config.tau)
        return {
            "loss/critics": of_critics.item(),
            "loss/actor": of_actor.item(),
            "alpha": self.log_alpha.exp().item(),
        }

    def state(self) -> dict[str, Any]:
        """What `restore` takes: copies of weights, moments, and the generator of the noise."""
        state = {
            "actor": self.actor.state_dict(),
            "critics": self.critics.state_dict(),
            "targets": self.targets.state_dict(),
            "log_alpha": self.log_alpha.detach(),
            "noise": self.noise.get_state(),
            "optimizers": {name: o.state_dict() for name, o in self._optimizers.items()},
        }
        return copy.deepcopy(state)  # an optimiser would go on in the moments that it is given

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` described."""
        for name in ("actor", "critics", "targets"):
            getattr(self, name).load_state_dict(state[name])
        with torch.no_grad():
            self.log_alpha.copy_(state["log_alpha"])
        self.noise.set_state(state["noise"])
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])

    def _critic_loss(self, batch: Transitions) -> Tensor:
        with torch.no_grad():
            actions, logprobs = self._sample(batch.next_states)
            target = soft_target(
                batch.rewards,
                batch.ends,
                self._values(self.targets, batch.next_states, actions),
                logprobs,
                gamma=self.config.gamma,
                alpha=self.log_alpha.exp(),
            )
        taken = 2 * (batch.actions - self.low) / (self.high - self.low) - 1
        return critic_loss(self._values(self.critics, batch.states, taken), target)

    def _moments(self, states: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.actor(states).chunk(2, -1)
        return mean, log_std.clamp(*_LOG_STD)

    def _sample(self, states: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self._moments(states)
        return squashed(mean, log_std, torch.randn(mean.shape, generator=self.noise))

    def _values(
        self, critics: nn.ModuleList, states: Tensor, actions: Tensor
    ) -> tuple[Tensor, Tensor]:
        rows = torch.cat([states, actions], -1)
        first, second = (critic(rows)[:, 0] for critic in critics)
        return first, second

    def _bounded(self, actions: Tensor) -> Tensor:
        return self.low + (actions + 1) / 2 * (self.high - self.low)

    def _step(self, name: str, loss: Tensor) -> None:
        self._optimizers[name].zero_grad()
        loss.backward()
        self._optimizers[name].step()


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, outputs),
    )
