"""How different two rewards are, without training: EPIC (Gleave et al., arXiv 2006.13900).

A reward may be moved by a potential and scaled without a change of the best policies. EPIC takes
both away, and what is left is one minus a correlation:

    C(R)(s, a, s') = R(s, a, s') + E[g R(s', A, S') - R(s, A, S') - g R(S, A, S')]
    D(R1, R2)      = sqrt((1 - pearson(C(R1), C(R2))) / 2),   from 0 (alike) to 1 (opposed)

A completion ends its episode, so of C what depends on the prompt alone is left to take away: the
mean over the completions of the prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import DataError

Numbers = NDArray[np.float64]
_RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class PairDistance:
    """The distance of two rewards.

    Attributes:
        first, second: their names.
        distance: from 0 to 1; NaN where one of them is constant for each prompt.
        low, high: 95 % interval, from resampled prompts.
    """

    first: str
    second: str
    distance: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RewardDistances:
    """Distances between rewards on the same completions.

    Attributes:
        pairs: each two of them.
        num_prompts, num_completions: what they were measured on.
    """

    pairs: tuple[PairDistance, ...]
    num_prompts: int
    num_completions: int

    def __str__(self) -> str:
        width = max(len(f"{p.first} and {p.second}") for p in self.pairs)
        lines = [
            f"EPIC distance, 0 (alike) to 1 (opposed), on {self.num_completions:,} completions of "
            f"{self.num_prompts:,} prompts"
        ]
        for p in self.pairs:
            name = f"{p.first} and {p.second}".ljust(width)
            value = f"{p.distance:.3f} ({p.low:.3f} to {p.high:.3f})"
            constant = "one of them is constant for each prompt"
            lines.append(f"  {name}  {value if np.isfinite(p.distance) else constant}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {
            "num_prompts": self.num_prompts,
            "num_completions": self.num_completions,
            "pairs": [
                {
                    "first": p.first,
                    "second": p.second,
                    "distance": p.distance if np.isfinite(p.distance) else None,
                    "interval": [p.low, p.high] if np.isfinite(p.distance) else None,
                }
                for p in self.pairs
            ],
        }


def canonical_reward(
    rewards: Numbers, states: Numbers, actions: Numbers, *, discount: float
) -> Numbers:
    """The canonically shaped reward of a table (definition 4.1).

    Args:
        rewards: R(s, a, s'). [S, A, S].
        states: distribution over states. [S].
        actions: distribution over actions. [A].
        discount: g, from 0 to 1.
    Returns:
        C(R). [S, A, S]. R + g F(s') - F(s) has the same, for any F.
    """
    mean = np.einsum("sat,a,t->s", rewards, actions, states)  # E[R(s, A, S')]
    overall = float(mean @ states)
    shaped: Numbers = rewards + discount * mean[None, None, :] - mean[:, None, None]
    return shaped - discount * overall


def pearson_distance(first: Numbers, second: Numbers, weights: Numbers | None = None) -> float:
    """sqrt((1 - correlation) / 2); NaN where one of them is constant."""
    w = np.ones_like(first) if weights is None else weights
    w = w / w.sum()
    a, b = first - (w * first).sum(), second - (w * second).sum()
    scale = float((w * a * a).sum() * (w * b * b).sum())
    if scale <= 1e-24 * max(float(np.abs(first).max()), float(np.abs(second).max()), 1e-30) ** 4:
        return float("nan")
    correlation = float((w * a * b).sum()) / scale**0.5
    return float(np.sqrt(max(0.0, 1 - correlation) / 2))


def reward_distances(
    values: Mapping[str, Sequence[Sequence[float]]], *, seed: int = 0
) -> RewardDistances:
    """EPIC distances between rewards of the same completions.

    >>> a = [[0.0, 1.0, 2.0], [5.0, 6.0, 5.0]]
    >>> b = [[0.0, 2.0, 4.0], [0.0, 2.0, 0.0]]
    >>> reward_distances({"a": a, "b": b}).pairs[0].distance
    0.0

    Args:
        values: by name, for each prompt the rewards of its completions. The prompts and completions
            are the same for all.
        seed: of the bootstrap over prompts.
    Raises:
        DataError: there are fewer than two rewards or no two completions of a prompt, the shapes
            differ, or a value is not finite.
    """
    centred, lengths = _centred(values)
    draw = np.random.default_rng(seed)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    resampled = [
        np.bincount(draw.integers(len(lengths), size=len(lengths)), minlength=len(lengths))
        for _ in range(_RESAMPLES)
    ]
    pairs = []
    for first, second in itertools.combinations(centred, 2):
        a, b = centred[first], centred[second]
        # What resampling needs of a prompt: sums of squares and of products. Means are zero.
        sums = np.array([np.add.reduceat(x, starts[:-1]) for x in (a * a, b * b, a * b)])
        estimates = [_distance(*(sums @ counts)) for counts in resampled]
        finite = [e for e in estimates if np.isfinite(e)]
        low, high = np.quantile(finite, [0.025, 0.975]) if finite else (np.nan, np.nan)
        distance = _distance(*sums.sum(axis=1))
        pairs.append(PairDistance(first, second, distance, float(low), float(high)))
    return RewardDistances(tuple(pairs), len(lengths), int(lengths.sum()))


def _distance(squares_a: float, squares_b: float, products: float) -> float:
    if squares_a <= 0 or squares_b <= 0:
        return float("nan")
    correlation = products / (squares_a * squares_b) ** 0.5
    return float(np.sqrt(min(max(1 - correlation, 0.0), 2.0) / 2))


def _centred(
    values: Mapping[str, Sequence[Sequence[float]]],
) -> tuple[dict[str, Numbers], NDArray[np.int64]]:
    if len(values) < 2:
        raise DataError(f"reward distance: there is {len(values)} reward; at least 2 are compared")
    shapes = {name: [len(group) for group in groups] for name, groups in values.items()}
    first = next(iter(shapes))
    for name, shape in shapes.items():
        if shape != shapes[first]:
            raise DataError(
                f"reward distance: {first!r} and {name!r} are of different completions; give the "
                "rewards of the same ones"
            )
    kept = [i for i, length in enumerate(shapes[first]) if length > 1]
    if not kept:
        raise DataError("reward distance: no prompt has two completions; sample several for each")
    centred = {}
    for name, groups in values.items():
        parts = [np.asarray(groups[i], dtype=np.float64) for i in kept]
        largest = max(float(np.abs(part).max()) for part in parts)
        if not np.isfinite(largest):
            raise DataError(f"reward distance: a value of {name!r} is not finite; leave it out")
        whole = np.concatenate([part - part.mean() for part in parts])
        whole[np.abs(whole) <= 1e-12 * largest] = 0  # what rounding leaves of a constant
        centred[name] = whole
    return centred, np.array([shapes[first][i] for i in kept], dtype=np.int64)
