"""Measures of a sequence of trainings: what each stage did to every domain or task.

A stream has N stages, and stage j trains on domain j. A matrix of values has shape [N + 1, N]: row
0 is the model before the first stage, row i the model after stage i; column j - 1 is domain j. So
values[j, j - 1] is domain j just after it was trained on.

Perplexities or nats per token, where lower is better (continual pretraining, arXiv 2402.17400):

    ZS_j = P(0, j)      zero shot
    CPT_j = P(j, j)     just after its own stage
    LC_j = P(N, j)      at the last checkpoint
    FG_j = LC_j - CPT_j forgetting
    gain(i, j) = ZS_j - P(i, j)     backward transfer for j < i, forward transfer for j > i

Scores, where higher is better (continual learning; GEM, arXiv 1706.08840; RWalk, arXiv 1801.10112;
TRACE, arXiv 2310.06762):

    AP_t  = 1/t sum_{i<=t} R(t, i)
    BWT_t = 1/(t-1) sum_{i<t} R(t, i) - R(i, i)
    FWT_t = 1/(t-1) sum_{1<i<=t} R(i-1, i) - R(0, i)
    F_t   = 1/(t-1) sum_{i<t} max_{1<=l<t} R(l, i) - R(t, i)
    I_t   = 1/t sum_{i<=t} R*(i) - R(i, i)

All functions are plain numpy in float64. A value that was not measured is NaN, and so is every
measure that needs it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from posttrain.errors import ConfigError
from posttrain.evaluation.statistics import Difference, Interval, paired_t, t_interval

Array = np.ndarray


def _matrix(values: ArrayLike) -> Array:
    """The matrix [N + 1, N] in float64.

    Raises:
        ConfigError: another shape.
    """
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] + 1 or not matrix.shape[1]:
        raise ConfigError(
            f"a matrix of N stages has shape [N + 1, N], and this one {list(matrix.shape)}; row 0 "
            "is the model before the first stage"
        )
    return matrix


def _stage(matrix: Array, stage: int | None, least: int = 1) -> int:
    """The number of a stage; None is the last.

    Raises:
        ConfigError: there is no such stage, or it is too early for the measure.
    """
    last = matrix.shape[1]
    number = last if stage is None else stage
    if not least <= number <= last:
        raise ConfigError(
            f"stage: {number} of {last}; this measure is defined from stage {least} to the last"
        )
    return number


def zero_shot(values: ArrayLike) -> Array:
    """ZS_j = P(0, j). [N + 1, N] -> [N]."""
    return _matrix(values)[0].copy()


def own_stage(values: ArrayLike) -> Array:
    """CPT_j = P(j, j), each domain just after its own stage. [N + 1, N] -> [N]."""
    return np.diagonal(_matrix(values), offset=-1).copy()


def last_checkpoint(values: ArrayLike) -> Array:
    """LC_j = P(N, j). [N + 1, N] -> [N]."""
    return _matrix(values)[-1].copy()


def forgetting_gap(values: ArrayLike) -> Array:
    """FG_j = LC_j - CPT_j, of values where lower is better. [N + 1, N] -> [N]. The last is 0."""
    return last_checkpoint(values) - own_stage(values)


def gains(values: ArrayLike) -> Array:
    """gain(i, j) = ZS_j - P(i, j), of values where lower is better. [N + 1, N] -> [N + 1, N]."""
    matrix = _matrix(values)
    return matrix[0] - matrix


def backward_gains(values: ArrayLike) -> Array:
    """Mean gain of each stage on the domains before it: mean_{j<i} ZS_j - P(i, j).

    [N + 1, N] -> [N]; the first stage has no domain before it, and is NaN.
    """
    gain = gains(values)
    number = gain.shape[1]
    return np.array([_mean(gain[i, : i - 1]) for i in range(1, number + 1)])


def forward_gains(values: ArrayLike) -> Array:
    """Mean gain of each stage on the domains after it: mean_{j>i} ZS_j - P(i, j).

    [N + 1, N] -> [N]; the last stage has no domain after it, and is NaN.
    """
    gain = gains(values)
    number = gain.shape[1]
    return np.array([_mean(gain[i, i:]) for i in range(1, number + 1)])


def gains_by_lag(values: ArrayLike) -> dict[int, float]:
    """Mean gain by lag i - j: how long ago a domain was trained on.

    Positive lags are backward transfer, 0 is a domain just after its own stage, negative lags are
    forward transfer. [N + 1, N] -> {lag: mean over the N - |lag| pairs}, lags in ascending order.
    """
    gain = gains(values)[1:]
    number = gain.shape[1]
    return {lag: _mean(np.diagonal(gain, offset=-lag)) for lag in range(-number + 1, number)}


def average_performance(scores: ArrayLike, stage: int | None = None) -> float:
    """AP_t = 1/t sum_{i<=t} R(t, i), over the tasks that were trained on.

    Args:
        stage: t; None is the last.
    """
    matrix = _matrix(scores)
    t = _stage(matrix, stage)
    return _mean(matrix[t, :t])


def backward_transfer(scores: ArrayLike, stage: int | None = None) -> float:
    """BWT_t = 1/(t-1) sum_{i<t} R(t, i) - R(i, i). Negative: earlier tasks became worse."""
    matrix = _matrix(scores)
    t = _stage(matrix, stage, 2)
    return _mean(matrix[t, : t - 1] - own_stage(matrix)[: t - 1])


def forward_transfer(scores: ArrayLike, stage: int | None = None) -> float:
    """FWT_t = 1/(t-1) sum_{1<i<=t} R(i-1, i) - R(0, i): a task just before its own stage."""
    matrix = _matrix(scores)
    t = _stage(matrix, stage, 2)
    return _mean(np.diagonal(matrix)[1:t] - matrix[0, 1:t])


def forgetting_measure(scores: ArrayLike, stage: int | None = None) -> float:
    """F_t = 1/(t-1) sum_{i<t} max_{1<=l<t} R(l, i) - R(t, i): from the best a task has been.

    The model before the first stage is not among the stages l (arXiv 1801.10112, eq. 3).
    """
    matrix = _matrix(scores)
    t = _stage(matrix, stage, 2)
    return _mean(matrix[1:t, : t - 1].max(axis=0) - matrix[t, : t - 1])


def intransigence(scores: ArrayLike, reference: ArrayLike, stage: int | None = None) -> float:
    """I_t = 1/t sum_{i<=t} R*(i) - R(i, i): what a stage no longer learns.

    Args:
        reference [N]: R*, the scores of a model that is not trained in sequence: jointly on all
            tasks, or on each alone.
    Raises:
        ConfigError: not one reference per task.
    """
    matrix = _matrix(scores)
    t = _stage(matrix, stage)
    best = np.asarray(reference, dtype=np.float64)
    if best.shape != (matrix.shape[1],):
        raise ConfigError(
            f"reference: {list(best.shape)} values for {matrix.shape[1]} tasks; give one for each"
        )
    return _mean(best[:t] - own_stage(matrix)[:t])


def ability_delta(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Mean over held-out suites of after - before (TRACE, arXiv 2310.06762).

    With suites of general ability it is the General Ability Delta, with win rates against the
    first model on instructions the Instruction Following Delta, on unsafe prompts the Safety
    Delta.

    Args:
        before, after: scores by the name of the suite, of the first model and a later one.
    Raises:
        ConfigError: not the same suites, or none.
    """
    if not before or set(before) != set(after):
        raise ConfigError(
            f"ability_delta: suites {sorted(before)} before and {sorted(after)} after; measure "
            "the same ones, at least one"
        )
    return _mean(np.array([after[name] - before[name] for name in before]))


def over_seeds(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """A measure over seeds, with Student's interval: few seeds get the wide one that they need."""
    return t_interval(values, confidence)


def paired_over_seeds(a: Sequence[float], b: Sequence[float]) -> Difference:
    """b - a of a measure with the same seeds on both sides (paired t-test)."""
    return paired_t(a, b)


def _mean(values: Array) -> float:
    return float(values.mean()) if values.size else math.nan
