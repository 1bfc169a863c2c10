"""Whether predicted distributions are those of the truth (Kuleshov et al., arXiv 1807.00263).

u_t = F_t(x_t)      of a right forecast u is uniform on [0, 1]
KS = max_u |ECDF(u) - u|
coverage(p) = share of u_t <= p      ECE = mean over p of |coverage(p) - p|
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.dynamics.grid import GridDistribution
from posttrain.errors import DataError

Numbers = NDArray[np.float64]
_LEVELS = np.linspace(0.05, 0.95, 19)
_FLOOR = 1e-12


def sample_quantiles(samples: ArrayLike, truth: ArrayLike, draw: np.random.Generator) -> Numbers:
    """Quantiles of the truth among samples, [T, D].

    u = (number below + v (number equal + 1)) / (S + 1) with v uniform: of S samples from the law of
    the truth, u is exactly uniform.

    Args:
        samples: [S, T, D]. truth: [T, D].
    """
    x, y = np.asarray(samples, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if x.ndim != y.ndim + 1 or x.shape[1:] != y.shape:
        raise DataError(
            f"samples have the shape {x.shape} and the truth {y.shape}; samples are [S, ...] of "
            "the truth's shape"
        )
    below, equal = (x < y).sum(0), (x == y).sum(0)
    return (below + draw.random(y.shape) * (equal + 1)) / (len(x) + 1)


def ks_uniform(quantiles: ArrayLike) -> float:
    """Kolmogorov-Smirnov distance of quantiles from the uniform distribution, 0 to 1.

    Of n independent uniform numbers it exceeds 1.36 / sqrt(n) in 5 % of cases.

    >>> ks_uniform([0.25, 0.75])
    0.25
    """
    u = np.sort(_shares(quantiles))
    n = len(u)
    above = np.arange(1, n + 1) / n - u
    below = u - np.arange(n) / n
    return float(max(above.max(), below.max()))


def ks_critical(count: int) -> float:
    """The distance that n independent uniform numbers exceed in 5 % of cases: 1.358 / sqrt(n)."""
    return 1.358 / float(np.sqrt(count))


@dataclass(frozen=True, slots=True)
class Reliability:
    """A reliability diagram.

    Attributes:
        levels: [K], nominal shares. coverage: [K], shares of the truth below these quantiles.
        ece: mean |coverage - level|.
    """

    levels: Numbers
    coverage: Numbers

    @property
    def ece(self) -> float:
        """Expected calibration error of quantiles."""
        return float(np.abs(self.coverage - self.levels).mean())


def reliability(quantiles: ArrayLike, levels: ArrayLike = _LEVELS) -> Reliability:
    """The diagram of quantiles u at nominal levels.

    >>> reliability([0.1, 0.4], [0.25, 0.5]).coverage.tolist()
    [0.5, 1.0]
    """
    u, p = _shares(quantiles), np.asarray(levels, dtype=np.float64)
    return Reliability(p, (u[None, :] <= p[:, None]).mean(1))


def negative_log_likelihood(laws: Sequence[GridDistribution], truth: Sequence[ArrayLike]) -> float:
    """Mean of -log mass(truth) over all values, nats per value.

    Args:
        truth: per distribution [T]. A value outside the grid counts as of mass 1e-12.
    """
    total, count = 0.0, 0
    for law, values in zip(laws, truth, strict=True):
        with np.errstate(over="ignore"):
            mass = np.exp(law.log_density(values)) * law.width
        total -= float(np.log(np.maximum(mass, _FLOOR)).sum())
        count += len(law)
    return total / max(count, 1)


def fit_temperature(
    laws: Sequence[GridDistribution],
    truth: Sequence[ArrayLike],
    *,
    low: float = 0.1,
    high: float = 10.0,
) -> float:
    """The temperature of least negative log-likelihood on held-out values (Guo et al. 2017).

    By golden sections of log temperature; to 1 %. A temperature at an end of the range is that end.
    """
    if not laws or not 0 < low < high:
        raise DataError(
            "a temperature is fitted on at least one distribution, within 0 < low < high"
        )

    def loss(log_temperature: float) -> float:
        scaled = [law.tempered(float(np.exp(log_temperature))) for law in laws]
        return negative_log_likelihood(scaled, truth)

    a, b = float(np.log(low)), float(np.log(high))
    golden = (np.sqrt(5) - 1) / 2
    c, d = b - golden * (b - a), a + golden * (b - a)
    at_c, at_d = loss(c), loss(d)
    while b - a > 0.01:
        if at_c <= at_d:
            b, d, at_d = d, c, at_c
            c = b - golden * (b - a)
            at_c = loss(c)
        else:
            a, c, at_c = c, d, at_d
            d = a + golden * (b - a)
            at_d = loss(d)
    return float(np.exp((a + b) / 2))


def _shares(quantiles: ArrayLike) -> Numbers:
    u = np.asarray(quantiles, dtype=np.float64).reshape(-1)
    if u.size == 0 or not ((u >= 0) & (u <= 1)).all():
        raise DataError(f"{u.size} quantiles; there must be some, each from 0 to 1")
    return u
