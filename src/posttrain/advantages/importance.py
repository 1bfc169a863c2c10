"""Samples of another distribution than the policy's: importance weights, and what is rejected.

The two are independent. A weight is a factor on the advantage of a token. A rejected token is no
target any more: it counts in no numerator and in no denominator, as if it had never been trained
on.

d_t = log pi_old - log pi_engine of token t: of the policy at the start of the step, and of the
weights that sampled it. A ratio is never taken beyond exp(+-20).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from posttrain.advantages.group import Array

_MAX_LOG_RATIO = 20.0


def importance_weights(
    old_logprobs: Array, engine_logprobs: Array, mode: str, clip_max: float, clip_min: float = 0.0
) -> Array:
    """Weights [T] that correct for tokens sampled by another distribution than the policy of the
    step's start.

    w = exp(d_t) of the token, or exp(sum_t d_t) of the whole sequence (modes sequence_*). Modes
    *_truncate bound w by clip_max (truncated importance sampling). Modes *_mask set it to 0 above
    clip_max and below clip_min (IcePop, arXiv 2510.18855). As TRL's importance sampling correction
    where clip_min is 0.
    """
    difference = np.asarray(old_logprobs, dtype=float) - np.asarray(engine_logprobs, dtype=float)
    if mode.startswith("sequence"):
        difference = np.full(len(difference), difference.sum())
    weights = np.exp(np.clip(difference, -_MAX_LOG_RATIO, _MAX_LOG_RATIO))
    if mode.endswith("truncate"):
        return np.minimum(weights, clip_max)
    return np.where((weights > clip_max) | (weights < clip_min), 0.0, weights)


def normalized(
    weights: Sequence[Array], counted: Sequence[NDArray[np.bool_]], *, per_sequence: bool
) -> list[Array]:
    """Weights divided by their mean over what counts, so that the mean is 1.

    Args:
        weights: [T] each. counted: bool [T] each, the tokens that are trained.
        per_sequence: a sequence is one item of the mean, whatever its length; it has one weight.
    Returns:
        [T] each; as they are where nothing counts or all weights are 0.
    """
    if per_sequence:
        items = [w[0] for w, c in zip(weights, counted, strict=True) if c.any()]
    else:
        items = [x for w, c in zip(weights, counted, strict=True) for x in w[c]]
    mean = float(np.mean(items)) if items else 0.0
    return [w / mean if mean > 0 else w for w in weights]


def accepted(
    old_logprobs: Array,
    engine_logprobs: Array,
    counted: NDArray[np.bool_],
    mode: str,
    *,
    low: float,
    high: float,
) -> NDArray[np.bool_]:
    """The tokens [T] of a sequence that count and are not rejected.

    A token or a sequence is rejected where its statistic is below low or above high, in nats.
    The statistic of a token: k1 = d, k2 = d^2 / 2, k3 = exp(d) - 1 - d. Modes: token_k*, of each
    token; sequence_sum_k*, sequence_mean_k* and sequence_max_k*, of the tokens of the sequence that
    count. k2 and k3 are never negative.

    Args:
        counted: bool [T], the tokens that are trained.
    """
    difference = np.asarray(old_logprobs, dtype=float) - np.asarray(engine_logprobs, dtype=float)
    difference = np.clip(difference, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    level, estimator = mode.rsplit("_", 1)
    if estimator == "k1":
        numbers = difference
    elif estimator == "k2":
        numbers = difference**2 / 2
    else:
        numbers = np.expm1(difference) - difference
    if level == "token":
        return counted & (numbers >= low) & (numbers <= high)
    some = numbers[counted] if counted.any() else np.zeros(1)
    statistic = {
        "sequence_sum": some.sum(),
        "sequence_mean": some.mean(),
        "sequence_max": some.max(),
    }[level]
    return counted & (low <= statistic <= high)
