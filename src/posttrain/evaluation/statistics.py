"""Intervals and paired tests. Plain numpy in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from posttrain.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval; n is the number of independent units
    (questions).
    """

    estimate: float
    low: float
    high: float
    n: int


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927): honest for small n and for 0 or n
    successes.

    centre = (p + z^2 / 2n) / (1 + z^2 / n), half = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 /
    4n^2).
    """
    if n <= 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = (
        0.0 if successes == 0 else max(0.0, centre - half)
    )  # exact at the ends, where rounding would leave a trace
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(p, low, high, n)


def mean_interval(
    values: ArrayLike, confidence: float = 0.95, *, are_shares: bool = True
) -> Interval:
    """Mean over questions with a normal interval; values [Q] are per-question means, so that
    several samples of one question count as one unit (Miller, arXiv 2411.00640).

    Args:
        are_shares: values are from 0 to 1, and so is the interval. Values that are all 0 or 1 get
            Wilson's interval instead.
    """
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    if are_shares and np.isin(x, (0.0, 1.0)).all():
        return wilson_interval(float(x.sum()), n, confidence)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    half = z * float(x.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    mean = float(x.mean())
    low, high = mean - half, mean + half
    if are_shares:
        low, high = max(0.0, low), min(1.0, high)
    return Interval(mean, low, high, n)


def clustered_interval(
    values: ArrayLike, clusters: Sequence[object], confidence: float = 0.95
) -> Interval:
    """Mean over questions with a normal interval that allows for questions with a common context
    (Miller, arXiv 2411.00640, section 2.2).

    SE^2 = G / (G - 1) 1 / n^2 sum_g (sum_{i in g} (x_i - mean))^2. With clusters of one question
    each it is the usual error. Give differences b - a for a paired comparison.

    Args:
        values [Q]: per-question means, or differences. clusters [Q]: what each belongs to, such as
            its passage.

    Returns:
        n is the number G of clusters. With one cluster the interval has no bounds.

    Raises:
        ConfigError: not one cluster per value.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) != len(clusters):
        raise ConfigError(
            f"clustered_interval: {len(clusters)} clusters for {len(x)} values; give one for each"
        )
    if len(x) == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    numbers = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    mean, groups = float(x.mean()), len(numbers)
    sums = np.bincount([numbers[name] for name in clusters], weights=x - mean, minlength=groups)
    error = math.inf
    if groups > 1:
        error = math.sqrt(groups / (groups - 1) * float((sums**2).sum())) / len(x)
    half = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return Interval(mean, mean - half, mean + half, groups)


@dataclass(frozen=True, slots=True)
class Difference:
    """b - a on the same questions: mean difference, interval, two-sided p-value."""

    estimate: float
    low: float
    high: float
    p_value: float
    n: int


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Difference:
    """Bootstrap over questions of the mean difference b - a (Efron and Tibshirani 1993, ch. 16).

    The interval is the percentile interval. The p-value is that of the bootstrap test: the share of
    resamples of the centred differences whose mean is at least as far from zero as the observed
    one, counted with the +1 correction.
    """
    x = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    n = len(x)
    if n == 0:
        return Difference(math.nan, math.nan, math.nan, math.nan, 0)
    draw = np.random.default_rng(seed)
    means = np.empty(num_resamples)
    chunk = max(1, 2_000_000 // n)  # bounds the memory of one block of resamples
    for start in range(0, num_resamples, chunk):
        count = min(chunk, num_resamples - start)
        means[start : start + count] = x[draw.integers(0, n, size=(count, n))].mean(axis=1)
    return _of_resamples(means, float(x.mean()), n, confidence)


def _of_resamples(resamples: np.ndarray, estimate: float, n: int, confidence: float) -> Difference:
    """The percentile interval of an estimate, and the p-value of its centred resamples."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resamples, [tail, 1 - tail])
    # The tolerance counts exact ties, which sums in another order would miss.
    extreme = int((np.abs(resamples - estimate) >= abs(estimate) - 1e-12).sum())
    p_value = (extreme + 1) / (len(resamples) + 1)
    return Difference(estimate, float(low), float(high), p_value, n)


def paired_ratio(
    a: ArrayLike,
    b: ArrayLike,
    sizes: ArrayLike,
    *,
    num_resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Difference:
    """Bootstrap over items of sum(b - a) / sum(sizes), such as nats per token over rows.

    Items are resampled with their sizes, so that the ratio's denominator varies too (Efron and
    Tibshirani 1993, ch. 10). The p-value is as in `paired_bootstrap`.
    """
    x = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    weight = np.asarray(sizes, dtype=np.float64)
    n = len(x)
    if n == 0 or weight.sum() == 0:
        return Difference(math.nan, math.nan, math.nan, math.nan, n)
    draw = np.random.default_rng(seed)
    ratios = np.empty(num_resamples)
    chunk = max(1, 2_000_000 // n)
    for start in range(0, num_resamples, chunk):
        places = draw.integers(0, n, size=(min(chunk, num_resamples - start), n))
        below = np.maximum(weight[places].sum(axis=1), np.finfo(np.float64).tiny)
        ratios[start : start + len(places)] = x[places].sum(axis=1) / below
    ratio = float(x.sum() / weight.sum())
    return _of_resamples(ratios, ratio, n, confidence)


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of a few independent runs with Student's interval (Student 1908).

    mean +- t_{n-1} s / sqrt(n). Of 5 seeds it is 1.42 times as wide as the normal one. One run has
    no bounds.
    """
    x = np.asarray(values, dtype=np.float64)
    n = len(x)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean, half = float(x.mean()), math.inf
    if n > 1:
        quantile = _student_quantile(0.5 + confidence / 2, n - 1)
        half = quantile * float(x.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def paired_t(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Difference:
    """b - a of a few runs with the same seeds: mean, Student's interval, two-sided p-value.

    Raises:
        ConfigError: not as many values on both sides.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.shape != y.shape:
        raise ConfigError(f"paired_t: {len(x)} and {len(y)} values; pair them by seed, one of each")
    interval = t_interval(y - x, confidence)
    n, estimate = interval.n, interval.estimate
    if n < 2:
        return Difference(estimate, interval.low, interval.high, math.nan, n)
    error = float((y - x).std(ddof=1)) / math.sqrt(n)
    if error == 0:
        p_value = 1.0 if estimate == 0 else 0.0
    else:
        p_value = 2 * (1 - _student_cdf(abs(estimate) / error, n - 1))
    return Difference(estimate, interval.low, interval.high, p_value, n)


def _student_cdf(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0 and whole degrees of freedom (Abramowitz and Stegun 26.7.3-4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = freedom % 2
    term, total = (cosine, 0.0) if is_odd else (1.0, 0.0)
    for k in range(1 + is_odd, freedom, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    within = 2 / math.pi * (angle + sine * total) if is_odd else sine * total
    return 0.5 + within / 2


def _student_quantile(probability: float, freedom: int) -> float:
    """The t above 0 whose distribution function is the probability, by bisection."""
    low, high = 0.0, 1.0
    while _student_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """Exact two-sided p-value of McNemar's test on paired outcomes (McNemar 1947; binomial form).

    Of the questions on which a and b differ, under the null either wins with probability 1/2.
    """
    x, y = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    only_a, only_b = int((x & ~y).sum()), int((y & ~x).sum())
    n, k = only_a + only_b, min(only_a, only_b)
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    return min(1.0, 2 * tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for several comparisons (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[int(i)] = running
    return adjusted
