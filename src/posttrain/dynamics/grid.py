"""Distributions on a regular grid of bins, many at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.errors import DataError

Numbers = NDArray[np.float64]
_LEAST = 1e-300


@dataclass(frozen=True, slots=True)
class GridDistribution:
    """T distributions over B bins of equal width, uniform within each bin.

        p(x) = mass_b / width   for |x - centre_b| <= width / 2,      centre_b = origin + b width

    Attributes:
        mass: float64 [T, B], each row sums to 1.
        origin: centre of bin 0. width: of a bin. Both in units of the series.
    """

    mass: Numbers
    origin: float
    width: float

    def __post_init__(self) -> None:
        mass = np.asarray(self.mass, dtype=np.float64)
        if mass.ndim != 2 or (mass < 0).any() or not np.allclose(mass.sum(-1), 1, atol=1e-6):
            raise DataError(
                f"masses of the shape {mass.shape} are no distributions; each row of [T, B] must "
                "be at least 0 and sum to 1"
            )
        object.__setattr__(self, "mass", mass)

    def __len__(self) -> int:
        return len(self.mass)

    def __getitem__(self, places: slice) -> GridDistribution:
        return GridDistribution(self.mass[places], self.origin, self.width)

    @property
    def centres(self) -> Numbers:
        """[B], centres of the bins."""
        return np.asarray(
            self.origin + self.width * np.arange(self.mass.shape[1]), dtype=np.float64
        )

    @property
    def mean(self) -> Numbers:
        """[T], sum_b mass_b centre_b."""
        return self.mass @ self.centres

    @property
    def mode(self) -> Numbers:
        """[T], the centre of the likeliest bin, the lowest of equals."""
        return self.centres[self.mass.argmax(-1)]

    @property
    def std(self) -> Numbers:
        """[T]; the width of the bins counts: sum_b mass_b (centre_b - mean)^2 + width^2 / 12."""
        gaps = self.centres[None, :] - self.mean[:, None]
        return np.sqrt((self.mass * gaps**2).sum(-1) + self.width**2 / 12)

    def cdf(self, values: ArrayLike) -> Numbers:
        """P(X <= value), [T] for values [T] or a scalar; linear within a bin."""
        x = np.broadcast_to(np.asarray(values, dtype=np.float64), (len(self),))
        bins = self.mass.shape[1]
        place = np.clip((x - self.origin) / self.width + 0.5, 0, bins)
        whole = np.minimum(place.astype(np.int64), bins - 1)
        below = np.concatenate([np.zeros((len(self), 1)), np.cumsum(self.mass, -1)], -1)
        rows = np.arange(len(self))
        return np.minimum(1.0, below[rows, whole] + self.mass[rows, whole] * (place - whole))

    def quantile(self, share: ArrayLike) -> Numbers:
        """The values below which a share lies: shares [T] or a scalar, 0 to 1 -> [T]."""
        p = np.broadcast_to(np.asarray(share, dtype=np.float64), (len(self),))
        total = np.cumsum(self.mass, -1)
        place = (total < np.minimum(p, total[:, -1])[:, None]).sum(-1)
        place = np.minimum(place, self.mass.shape[1] - 1)
        rows = np.arange(len(self))
        inside = np.maximum(self.mass[rows, place], _LEAST)
        part = np.clip((p - (total[rows, place] - self.mass[rows, place])) / inside, 0, 1)
        return self.origin + self.width * (place - 0.5 + part)

    def sample(self, count: int, draw: np.random.Generator) -> Numbers:
        """[count, T] independent values, by the inverse of the distribution function."""
        return np.stack([self.quantile(draw.random(len(self))) for _ in range(count)])

    def log_density(self, values: ArrayLike) -> Numbers:
        """log p(value), [T], nats per unit of the series; -inf outside the grid."""
        x = np.broadcast_to(np.asarray(values, dtype=np.float64), (len(self),))
        place = np.rint((x - self.origin) / self.width).astype(np.int64)
        inside = (place >= 0) & (place < self.mass.shape[1])
        rows = np.arange(len(self))
        mass = np.where(inside, self.mass[rows, np.clip(place, 0, self.mass.shape[1] - 1)], 0.0)
        with np.errstate(divide="ignore"):
            return np.log(mass) - np.log(self.width)

    def tempered(self, temperature: float) -> GridDistribution:
        """mass_b^(1 / temperature), normalised: wider above 1, narrower below."""
        if not temperature > 0:
            raise DataError(f"temperature is {temperature}; it must be above 0")
        with np.errstate(divide="ignore"):
            logs = np.log(self.mass) / temperature
        mass = np.exp(logs - logs.max(-1, keepdims=True))
        return GridDistribution(mass / mass.sum(-1, keepdims=True), self.origin, self.width)

    def kl(self, other: GridDistribution) -> Numbers:
        """KL(self || other), [T], nats: sum_b p_b log(p_b / q_b)."""
        p, q = self._with(other)
        logs = np.log(np.maximum(p, _LEAST)) - np.log(np.maximum(q, _LEAST))
        return np.where(p > 0, p * logs, 0.0).sum(-1)

    def bhattacharyya(self, other: GridDistribution) -> Numbers:
        """-log sum_b sqrt(p_b q_b), [T]."""
        p, q = self._with(other)
        return -np.log(np.maximum(np.sqrt(p * q).sum(-1), _LEAST))

    def _with(self, other: GridDistribution) -> tuple[Numbers, Numbers]:
        same = np.isclose([self.origin, self.width], [other.origin, other.width]).all()
        if self.mass.shape != other.mass.shape or not same:
            raise DataError(
                f"distributions of {self.mass.shape} and {other.mass.shape} bins on other grids "
                "cannot be compared; forecast both with one scale"
            )
        return self.mass, other.mass
