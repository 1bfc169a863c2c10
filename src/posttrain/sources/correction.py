"""Rollouts that the present policy would not have sampled: their importance weights, and which of
their tokens are rejected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from posttrain.advantages.importance import accepted, importance_weights, normalized
from posttrain.averages import Averages
from posttrain.config import CreditConfig
from posttrain.data.forest import TokenSequence

Nested = list[list[np.ndarray]]
"""Numbers per token of each completion: [P][G] of arrays [T]."""


def corrections(
    config: CreditConfig, old: Nested, engine: Nested, counted: Nested, averages: Averages
) -> Nested:
    """Importance weights of all tokens.

    Args:
        old: log-probs of the policy at the start of the step. engine: those of the sampler; a token
            of which it reported none (NaN) has the ratio 1.
        counted: bool, the tokens that are trained.
        averages: gets the mean of the weights, before they are normalised.
    """
    c = config
    weights = [
        importance_weights(
            o, _or(e, o), c.importance_correction, c.importance_clip_max, c.importance_clip_min
        )
        for of_prompt in zip(old, engine, strict=True)
        for o, e in zip(*of_prompt, strict=True)
    ]
    numbers = [w for row in weights for w in row]
    name = "sampling/importance_sampling_ratio/mean"
    averages.add(name, float(np.sum(numbers)), len(numbers))
    if c.importance_normalize:
        flat = [mask for row in counted for mask in row]
        per_sequence = c.importance_correction.startswith("sequence")
        weights = normalized(weights, flat, per_sequence=per_sequence)
    remaining = iter(weights)
    return [[next(remaining) for _ in row] for row in old]


def without_rejected(
    config: CreditConfig,
    measured: Mapping[str, Nested],
    engine: Nested | None,
    counted: Nested,
    averages: Averages,
) -> Nested:
    """The tokens that are trained, without those that are rejected.

    Args:
        measured: "logprobs" are those of the policy at the start of the step. engine: log-probs of
            the sampler, None where they are of another distribution.
        counted: bool, the tokens that would be trained.
        averages: gets the share of tokens that are rejected, and of completions that lose all.
    """
    c = config
    if c.rejection == "none" or engine is None:
        return counted
    low = -math.inf
    if c.rejection.endswith("k1"):
        low = -c.rejection_max if c.rejection_min is None else c.rejection_min
    rows = zip(measured["logprobs"], engine, counted, strict=True)
    kept = [
        [
            accepted(o, _or(e, o), mask, c.rejection, low=low, high=c.rejection_max)
            for o, e, mask in zip(*row, strict=True)
        ]
        for row in rows
    ]
    before = [mask for row in counted for mask in row if mask.any()]
    after = [mask for row in kept for mask in row]
    total = sum(int(mask.sum()) for mask in before)
    rejected = total - sum(int(mask.sum()) for mask in after)
    averages.add("sampling/rejected_tokens_ratio", rejected, total)
    whole = len(before) - sum(bool(mask.any()) for mask in after)
    averages.add("sampling/rejected_completions_ratio", whole, len(before))
    return kept


def remaining(
    rows: Sequence[Sequence[Sequence[TokenSequence]]], before: Nested, after: Nested
) -> list[list[Sequence[TokenSequence]]]:
    """The sequences of each trace, none where all its tokens were rejected: it counts in no
    average over sequences.

    Where nothing of the step is left, all stay, without targets.

    Args:
        rows: [P][G]. before: the tokens that would be trained. after: those that are.
    """
    left = [
        [
            sequences if mask.any() or not trained.any() else []
            for sequences, trained, mask in zip(*row, strict=True)
        ]
        for row in zip(rows, before, after, strict=True)
    ]
    return left if any(any(row) for row in left) else [list(row) for row in rows]


def _or(numbers: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Numbers, and others where those are NaN."""
    return np.asarray(np.where(np.isnan(numbers), others, numbers))
