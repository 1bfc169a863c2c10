"""Credit token by token (shapes: see the package): r_t is earned with token t, V_t is the value
of the state before it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from posttrain.advantages.group import Array
from posttrain.registry import advantages

PerToken = list[list[NDArray[np.float64]]]
"""Advantages of each token: [P][G] of arrays [T]."""


def discounted(terms: Array, factor: float) -> Array:
    """sum_l factor^l x_{t+l} for each t of x [T]."""
    total, out = 0.0, np.zeros(len(terms))
    for t in range(len(terms) - 1, -1, -1):
        out[t] = total = terms[t] + factor * total
    return out


@advantages.register
def gae(
    token_rewards: PerToken, values: PerToken, *, gamma: float = 1.0, lam: float = 0.95
) -> PerToken:
    """Generalised advantage estimation (arXiv 1506.02438).

    A_t = sum_l (gamma lam)^l delta_{t+l},  delta_t = r_t + gamma V_{t+1} - V_t

    V = 0 after the end. lam 1: Monte Carlo return minus value; lam 0: the temporal difference
    delta.
    """

    def one(rewards: Array, v: Array) -> Array:
        following = np.append(v[1:], 0.0)
        return discounted(np.nan_to_num(rewards) + gamma * following - v, gamma * lam)

    return _each(one, token_rewards, values)


@advantages.register
def n_step(
    token_rewards: PerToken, values: PerToken, *, n: int = 5, gamma: float = 1.0
) -> PerToken:
    """The n-step advantage of A2C and A3C (arXiv 1602.01783).

    A_t = sum_{l < n} gamma^l r_{t+l} + gamma^n V_{t+n} - V_t, cut off at the end, where V is 0.
    """

    def one(rewards: Array, v: Array) -> Array:
        r, length = np.nan_to_num(rewards), len(v)
        out = -np.asarray(v, dtype=float)
        for step in range(min(n, length)):
            out[: length - step] += gamma**step * r[step:]
        if n < length:
            out[: length - n] += gamma**n * v[n:]
        return out

    return _each(one, token_rewards, values)


@advantages.register
def reward_to_go(token_rewards: PerToken, *, gamma: float = 1.0) -> PerToken:
    """A_t = sum_l gamma^l r_{t+l}: REINFORCE with causal credit; with KL in the reward and
    whitening, REINFORCE++.

    (arXiv 2501.03262.) No baseline: whiten the advantages (credit: {whiten: true}).
    """
    return [[discounted(np.nan_to_num(r), gamma) for r in group] for group in token_rewards]


@advantages.register(step_rewards=True, kl_in_reward=False)
def group_process(token_rewards: PerToken, *, epsilon: float = 1e-4) -> PerToken:
    """GRPO with process supervision (DeepSeekMath, arXiv 2402.03300, section 4.1.3).

    The rewards of all steps of all completions of a prompt are normalised together, r' = (r - mean)
    / (std + epsilon), and A_t = sum of r' of the steps that end at or after token t. token_rewards:
    NaN where no step ends. A group in which all step rewards tie gets exactly 0.
    """
    out: PerToken = []
    for group in token_rewards:
        steps = (
            np.concatenate([np.asarray(r)[~np.isnan(r)] for r in group]) if group else np.zeros(0)
        )
        mean = float(steps.mean()) if len(steps) else 0.0
        std = float(steps.std(ddof=1)) if len(steps) > 1 else 0.0
        if std < 1e-9:
            out.append([np.zeros(len(r)) for r in group])
        else:
            out.append(
                [discounted(np.nan_to_num((r - mean) / (std + epsilon)), 1.0) for r in group]
            )
    return out


def _each(function: Callable[..., Array], *nested: PerToken) -> PerToken:
    """A function of one completion's arrays over all completions."""
    return [
        [function(*arrays) for arrays in zip(*groups, strict=True)]
        for groups in zip(*nested, strict=True)
    ]
