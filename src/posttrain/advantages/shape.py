"""What is done to rewards and advantages beside estimating: whitening, corrections, masks,
controllers. Plain functions.

Numbers per token are lists of arrays [T], one per completion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from posttrain.advantages.group import Array


def whiten(
    advantages: Sequence[Array], counted: Sequence[Array], epsilon: float = 1e-8
) -> list[Array]:
    """Advantages minus their mean, divided by their standard deviation, over all tokens of the step
    that count.

    counted: bool [T] each. What does not count becomes 0.
    """
    flat = (
        np.concatenate([a[c] for a, c in zip(advantages, counted, strict=True)])
        if advantages
        else np.zeros(0)
    )
    if not len(flat):
        return [np.zeros_like(a) for a in advantages]
    mean, std = flat.mean(), flat.std(ddof=1) if len(flat) > 1 else 0.0
    return [
        np.where(c, (a - mean) / (std + epsilon), 0.0)
        for a, c in zip(advantages, counted, strict=True)
    ]


def top_entropy(
    entropies: Sequence[Array], counted: Sequence[Array], share: float
) -> list[NDArray[np.bool_]]:
    """True for the tokens of highest entropy, a `share` of those of the step that count ("80/20",
    arXiv 2506.01939).

    counted: bool [T] each. Returns bool [T] each.
    """
    flat = (
        np.concatenate([e[c] for e, c in zip(entropies, counted, strict=True)])
        if entropies
        else np.zeros(0)
    )
    bound = np.quantile(flat, 1 - share) if len(flat) else 0.0
    return [np.asarray(e) >= bound for e in entropies]


def next_kl_weight(weight: float, kl: float, target: float, gain: float = 0.1) -> float:
    """The adaptive controller of KL in the reward (arXiv 1909.08593): weight *= 1 + gain clip(kl /
    target - 1, -0.2, 0.2).

    kl: mean nats of the step's completions, each summed over its tokens.
    """
    return weight * (1 + gain * min(max(kl / target - 1, -0.2), 0.2))


def next_entropy_weight(weight: float, entropy: float, target: float, change: float) -> float:
    """Up by `change` where the entropy is below the target, down where not, within 0 and 1
    (Skywork-OR1, arXiv 2505.22312).
    """
    moved = weight + (change if entropy < target else -change)
    return min(max(moved, 0.0), 1.0)


def step_rewards(text_of_tokens: Sequence[str], rewards: Sequence[float]) -> Array:
    """Rewards of steps at the tokens that end them: [T], NaN where no step ends.

    A step is a line that is not blank; it ends with the token that holds its line break, the last
    one with the last token.

    Args:
        text_of_tokens: T texts. rewards: one per step; surplus ones are dropped, and a step beyond
        them has none.
    """
    out = np.full(len(text_of_tokens), math.nan)
    ends: list[int] = []
    open_line = False
    for t, text in enumerate(text_of_tokens):
        for piece in text.splitlines(keepends=True):
            open_line = open_line or bool(piece.strip())
            if open_line and piece.endswith("\n"):
                ends.append(t)
                open_line = False
    if open_line:
        ends.append(len(text_of_tokens) - 1)
    for t, reward in zip(ends, rewards, strict=False):
        out[t] = reward if math.isnan(out[t]) else out[t] + reward
    return out
