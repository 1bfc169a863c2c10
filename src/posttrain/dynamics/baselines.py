"""What a forecast in context is compared with: the context's Gaussian, and a network trained on it.

Both give normal distributions N(mean, std^2) per step and feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from posttrain.dynamics.trajectory import Trajectory
from posttrain.errors import DataError

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class NormalForecast:
    """Normal distributions of all next states. mean, std: [T, D]; std above 0."""

    mean: Numbers
    std: Numbers

    def cdf(self, values: ArrayLike) -> Numbers:
        """P(state <= value), [T, D]."""
        gaps = (np.asarray(values, dtype=np.float64) - self.mean) / self.std
        return torch.special.ndtr(torch.from_numpy(gaps)).numpy()

    def samples(self, count: int, draw: np.random.Generator) -> Numbers:
        """[count, T, D]."""
        return self.mean + self.std * draw.standard_normal((count, *self.mean.shape))


def gaussian_forecast(context: Trajectory) -> NormalForecast:
    """Moments of the context so far: the next state has the mean and variance of states 0 to t.

    The first row, which has no variance yet, takes that of the second.
    """
    states = context.states
    count = np.arange(1, len(states) + 1)[:, None]
    mean = np.cumsum(states, 0) / count
    variance = np.cumsum(states**2, 0) / count - mean**2
    std = np.sqrt(np.maximum(variance, 0))
    if len(states) > 1:
        std[0] = std[1]
    return NormalForecast(mean, np.maximum(std, _least(states)))


def network_forecast(
    context: Trajectory,
    test: Trajectory,
    *,
    hidden: int = 128,
    num_layers: int = 4,
    num_epochs: int = 150,
    patience: int = 15,
    learning_rate: float = 1e-3,
    batch_size: int = 64,
    validation_share: float = 0.1,
    seed: int = 0,
) -> NormalForecast:
    """A network of (state, action) -> next state, trained on a context with early stopping.

        x -> 4 layers of 128 ReLU units -> s' - s,      loss: mean squared error of standardised s'

    Args:
        context: what it is trained on. test: the steps whose next states are predicted.
        patience: epochs without a better validation error before it stops.
        validation_share: of the pairs, held out at random.
        seed: of weights, split and batches.

    Returns:
        of the steps of `test`. The standard deviation is that of the validation errors.

    Raises:
        DataError: fewer than 8 steps.
    """
    if len(context) < 8:
        raise DataError(f"a context of {len(context)} steps; a network needs at least 8")
    inputs, changes = _inputs(context)[:-1], np.diff(context.states, axis=0)
    center, spread = inputs.mean(0), np.maximum(inputs.std(0), 1e-8)
    offset, scale = changes.mean(0), np.maximum(changes.std(0), 1e-8)
    x = torch.from_numpy((inputs - center) / spread).float()
    y = torch.from_numpy((changes - offset) / scale).float()
    draw = np.random.default_rng(seed)
    order = draw.permutation(len(x))
    held = max(1, int(validation_share * len(x)))
    check, train = torch.from_numpy(order[:held]), order[held:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network(x.shape[1], hidden, num_layers, y.shape[1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate)
    best, state, waited = np.inf, network.state_dict(), 0
    for _ in range(num_epochs):
        for batch in np.array_split(draw.permutation(train), max(1, len(train) // batch_size)):
            rows = torch.from_numpy(batch)
            loss = (network(x[rows]) - y[rows]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            error = float((network(x[check]) - y[check]).square().mean())
        waited += 1
        if error < best:
            best, waited = error, 0
            state = {name: value.clone() for name, value in network.state_dict().items()}
        if waited > patience:
            break
    network.load_state_dict(state)
    with torch.no_grad():
        errors = ((network(x[check]) - y[check]).double().numpy() ** 2).mean(0) ** 0.5 * scale
        rows = torch.from_numpy((_inputs(test) - center) / spread).float()
        predicted = network(rows).double().numpy() * scale + offset
    std = np.maximum(errors, _least(context.states))
    return NormalForecast(test.states + predicted, np.broadcast_to(std, test.states.shape).copy())


def _inputs(trajectory: Trajectory) -> Numbers:
    parts = [trajectory.states]
    if trajectory.actions is not None:
        parts.append(trajectory.actions)
    return np.concatenate(parts, 1)


def _network(inputs: int, hidden: int, num_layers: int, outputs: int) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for width in [inputs, *[hidden] * (num_layers - 1)]:
        layers += [torch.nn.Linear(width, hidden), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(hidden, outputs))


def _least(states: Numbers) -> Numbers:
    """A standard deviation that is no division by zero, [D]."""
    return np.maximum(1e-6 * np.abs(states).max(0), 1e-9)
