"""Credit turn by turn (shapes: see the package): turn k of an episode earns r_k, and all of its
tokens share one advantage.

K turns of a trace, T sampled tokens of all of them. What tools and users say is context: it has no
advantage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from posttrain.advantages.gae import PerToken, discounted
from posttrain.advantages.group import Array, group_mean
from posttrain.registry import advantages

PerTurn = list[list[NDArray[np.float64]]]
"""Numbers of each turn: [P][G] of arrays [K]."""

Numbers = list[list[NDArray[np.int64]]]
"""Whole numbers of each turn or token: [P][G] of arrays [K] or [T]."""


@dataclass(frozen=True, slots=True)
class Credited:
    """Advantages with the returns that a critic learns, both [P][G] of [T], where these are not the
    advantages plus the values.
    """

    advantages: PerToken
    returns: PerToken


@advantages.register
def turn_returns(
    turn_rewards: PerTurn,
    turns: Numbers,
    *,
    gamma: float = 1.0,
    baseline: Literal["turn", "group"] = "turn",
    scale: Literal["group", "none"] = "group",
    epsilon: float = 1e-4,
) -> PerToken:
    """GRPO with the returns of turns.

    A_{i,k} = (R_{i,k} - mean) / (std + epsilon),  R_{i,k} = sum_{l >= k} gamma^(l - k) r_{i,l}

    Mean and standard deviation (Bessel-corrected) are over the group's returns; those of them that
    tie get exactly 0. With one turn it is GRPO (arXiv 2402.03300).

    gamma: discount per turn.
    baseline: over which returns of the group: "turn", those from the same turn on; "group", those
        of all turns.
    scale: "none" leaves the division out (Dr.GRPO, arXiv 2503.20783).
    """
    out: PerToken = []
    for rewards, numbers in zip(turn_rewards, turns, strict=True):
        returns = [discounted(r, gamma) for r in rewards]
        places = [np.arange(len(r)) for r in returns]
        alike = places if baseline == "turn" else [np.zeros_like(p) for p in places]
        centred = _by_key(returns, alike, scale, epsilon)
        out.append([a[n] for a, n in zip(centred, numbers, strict=True)])
    return out


@advantages.register
def gigpo(
    rewards: Array,
    turn_rewards: PerTurn,
    turns: Numbers,
    states: Numbers,
    contexts: Numbers,
    *,
    gamma: float = 0.95,
    step_weight: float = 1.0,
    anchor: Literal["state", "context"] = "state",
    scale: Literal["group", "none"] = "group",
    epsilon: float = 1e-4,
) -> PerToken:
    """GiGPO: group-in-group policy optimisation (Feng et al., arXiv 2505.10978).

    A_{i,k} = A_E(i) + step_weight A_S(i, k)
    A_E(i)    = (R_i - mean over the group) / (std + epsilon)
    A_S(i, k) = (R_{i,k} - mean over the anchor group) / (std + epsilon)
    R_{i,k}   = sum_{l >= k} gamma^(l - k) r_{i,l}

    R_i is the reward of the whole episode. An anchor group holds the turns of all episodes of a
    prompt that were taken in one state, so that different actions in the same state are compared
    without further sampling. A turn whose state no other has met gets A_S = 0. rewards [P, G].

    gamma: discount per turn.
    step_weight: of the turns' part; 0 is GRPO.
    anchor: what makes two states one: "state", the same observation, as in the paper (right where
        it shows the whole state, such as a board); "context", the same history.
    scale: "none" leaves both divisions out.
    """
    episode = group_mean(rewards, scale=scale, epsilon=epsilon)
    keys = states if anchor == "state" else contexts
    out: PerToken = []
    for p, (group, numbers) in enumerate(zip(turn_rewards, turns, strict=True)):
        returns = [discounted(r, gamma) for r in group]
        steps = _by_key(returns, keys[p], scale, epsilon)
        both = [episode[p, i] + step_weight * a for i, a in enumerate(steps)]
        out.append([a[n] for a, n in zip(both, numbers, strict=True)])
    return out


@advantages.register
def turn_gae(
    turn_rewards: PerTurn,
    values: PerToken,
    turns: Numbers,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
) -> Credited:
    """Generalised advantage estimation (arXiv 1506.02438) in which a whole turn is one action.

    A_k = sum_l (gamma lam)^l delta_{k+l},  delta_k = r_k + gamma V_{k+1} - V_k

    V_k is the critic's value at the end of turn k's context, where what tools have answered is
    known; V = 0 after the last turn. All tokens of a turn get A_k, and its critic learns A_k + V_k
    there. `gae` is the same token by token: there the value after a turn's last token is that at
    the end of the next turn's context.

    gamma, lam: per turn.
    """
    credit: PerToken = []
    returns: PerToken = []
    for rewards, v, numbers in zip(turn_rewards, values, turns, strict=True):
        rows = [_turn_gae(*x, gamma, lam) for x in zip(rewards, v, numbers, strict=True)]
        credit.append([a for a, _ in rows])
        returns.append([r for _, r in rows])
    return Credited(credit, returns)


def _turn_gae(
    rewards: Array, values: Array, turns: NDArray[np.int64], gamma: float, lam: float
) -> tuple[Array, Array]:
    """Advantages and returns [T] of one trace. Turns in which nothing was sampled have no state
    and no action: what they earn belongs to the turn before.
    """
    if not len(turns):
        return np.zeros(0), np.zeros(0)
    acting, first = np.unique(turns, return_index=True)
    earned = np.add.reduceat(np.nan_to_num(rewards), np.append(0, acting[1:]))
    v = np.asarray(values, dtype=float)[first]
    credit = discounted(earned + gamma * np.append(v[1:], 0.0) - v, gamma * lam)
    place = np.searchsorted(acting, turns)
    return credit[place], (credit + v)[place]


def _by_key(
    returns: list[Array],
    keys: list[NDArray[np.int64]],
    scale: Literal["group", "none"],
    epsilon: float,
) -> list[Array]:
    """Returns [K] of the traces of a group, each centred (and scaled) among those with its key.
    NaN is in no mean and gets 0; a key that stands alone gets 0.
    """
    members: dict[int, list[tuple[int, int]]] = {}
    for i, row in enumerate(keys):
        for k in np.flatnonzero(~np.isnan(returns[i])):
            members.setdefault(int(row[k]), []).append((i, int(k)))
    out = [np.zeros(len(r)) for r in returns]
    for places in members.values():
        numbers = np.array([[returns[i][k] for i, k in places]])
        centred = group_mean(numbers, scale=scale, epsilon=epsilon)
        for place, value in zip(places, centred[0], strict=True):
            out[place[0]][place[1]] = value
    return out
