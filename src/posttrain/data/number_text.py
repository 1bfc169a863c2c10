"""Series of numbers as text: rescaled, rounded to a fixed number of digits, separated by commas.

    x' = (x - minimum) / (maximum - minimum) (high - low) + low,      text = round(x' step)

as in LLMTime (Gruver et al., arXiv 2310.07820) and DICL (Benechehab et al., arXiv 2410.11711). The
decimal point is left out: with three digits "1.50" is "150".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.errors import ConfigError, DataError, shown

Numbers = NDArray[np.float64]
Integers = NDArray[np.int64]
SEPARATOR = ","
MAX_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Scale:
    """The affine map between the values of a series and the integers that stand for them.

        integer = (value - origin) / width

    Attributes:
        origin: value of the integer 0, in units of the series.
        width: value of one step of the last digit, in units of the series; above 0.
    """

    origin: float
    width: float

    def places(self, values: ArrayLike) -> Numbers:
        """Values in units of the last digit, not rounded."""
        return (np.asarray(values, dtype=np.float64) - self.origin) / self.width

    def values(self, places: ArrayLike) -> Numbers:
        """The values at places: the inverse of `places`."""
        return self.origin + np.asarray(places, dtype=np.float64) * self.width


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How a series is written.

    Attributes:
        digits: of each number, 1 to 4. The first is the one before the decimal point.
        low, high: where the minimum and the maximum of a context lie, within [0, 10). The room
            outside is for values beyond those of the context.
    """

    digits: int = 3
    low: float = 1.5
    high: float = 8.5

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= MAX_DIGITS:
            raise ConfigError(
                f"digits is {self.digits}; a number is written with 1 to {MAX_DIGITS} digits"
            )
        if not 0 <= self.low < self.high < 10:
            raise ConfigError(
                f"low is {self.low:g} and high {self.high:g}; a context lies within 0 <= low < "
                "high < 10"
            )

    @property
    def size(self) -> int:
        """B = 10^digits, integers that can be written."""
        return 10**self.digits

    @property
    def step(self) -> int:
        """Integers per unit of the rescaled value, 10^(digits - 1)."""
        return 10 ** (self.digits - 1)

    def scale(self, context: ArrayLike) -> Scale:
        """The scale of a context, which stays as it is while the series is continued.

        A context of equal values is put in the middle of the range, and its span counts as 1.

        Args:
            context: [T], finite.

        Raises:
            DataError: no value, or one that is not finite.
        """
        values = finite_series(context)
        minimum, maximum = float(values.min()), float(values.max())
        span = maximum - minimum
        if span <= 1e-12 * max(abs(minimum), abs(maximum), 1e-300):
            minimum, span = (minimum + maximum) / 2 - 0.5, 1.0
        width = span / ((self.high - self.low) * self.step)
        return Scale(minimum - self.low * self.step * width, width)

    def integers(self, values: ArrayLike, scale: Scale) -> Integers:
        """Values as integers from 0 to B - 1: rounded, and cut at the ends. [...] -> [...]."""
        places = np.rint(scale.places(finite_series(values)))
        return np.clip(places, 0, self.size - 1).astype(np.int64)

    def text(self, integers: ArrayLike) -> str:
        """Integers [T] as text, each followed by a comma.

        >>> NumberFormat().text([150, 7])
        '150,007,'
        """
        return "".join(f"{int(n):0{self.digits}d}{SEPARATOR}" for n in np.asarray(integers))

    def parse(self, text: str) -> Integers:
        """The integers of a text; the inverse of `text`. A last comma may be missing.

        Raises:
            DataError: a part that is no number of so many digits.
        """
        parts = text.strip().removesuffix(SEPARATOR).split(SEPARATOR)
        for part in parts:
            if len(part) != self.digits or not (part.isascii() and part.isdigit()):
                raise DataError(
                    f"{shown(part)} is no number of {self.digits} digits; numbers of a series are "
                    f"written as {self.text([1, 2])}"
                )
        return np.array([int(part) for part in parts], dtype=np.int64)


def finite_series(values: ArrayLike) -> Numbers:
    """Values as float64.

    Raises:
        DataError: none, or some that are not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise DataError("the series has no values; give at least one")
    bad = ~np.isfinite(array)
    if bad.any():
        place = int(np.flatnonzero(bad.reshape(-1))[0])
        raise DataError(
            f"value {place} of the series is {array.reshape(-1)[place]}; values must be finite, so "
            "fill or drop the gaps first"
        )
    return array
