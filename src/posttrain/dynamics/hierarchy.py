"""Hierarchy-PDF: a distribution over numbers that is refined digit by digit.

A model that writes digits gives P(d1), then P(d2 | d1), and so on (Liu et al., arXiv 2402.00795).
A bin of the first digit has the width 10^(digits - 1). It is refined by the distribution of the
next digit below it:

    mass(d1 d2) = mass(d1) P(d2 | d1)

A bin that is not refined is uniform over the numbers in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.errors import DataError

Numbers = NDArray[np.float64]
Digits = tuple[int, ...]


class HierarchyPDF:
    """One distribution over the numbers from 0 to 10^digits - 1.

    Args:
        digits: of a number. first: [10], P(first digit); what is not normalised is.
    """

    def __init__(self, digits: int, first: ArrayLike) -> None:
        if digits < 1:
            raise DataError(f"digits is {digits}; a number has at least 1")
        self.digits = digits
        self._below: dict[Digits, Numbers] = {(): _normalised(first)}

    def refine(self, prefix: Sequence[int], probabilities: ArrayLike) -> None:
        """Distribute the mass of a bin over its ten parts.

        Args:
            prefix: the digits of the bin. probabilities: [10], of the digit after them.

        Raises:
            DataError: the bin does not exist, or is refined already.
        """
        bin_ = tuple(int(digit) for digit in prefix)
        if not 0 < len(bin_) < self.digits or bin_[:-1] not in self._below or bin_ in self._below:
            raise DataError(
                f"bin {bin_} cannot be refined: it must be a part of a refined bin, once, and of "
                f"fewer than {self.digits} digits"
            )
        self._below[bin_] = _normalised(probabilities)

    def mass_of(self, prefix: Sequence[int]) -> float:
        """P(a number begins with these digits)."""
        digits = tuple(int(digit) for digit in prefix)
        mass = 1.0
        for length, digit in enumerate(digits):
            below = self._below.get(digits[:length])
            mass *= 0.1 if below is None else float(below[digit])
        return mass

    def open_bins(self, min_mass: float = 0.0) -> list[Digits]:
        """Bins that may be refined and have at least this mass; those of fewer digits first."""
        bins = [
            (*prefix, digit)
            for prefix in self._below
            for digit in range(10)
            if len(prefix) + 1 < self.digits and (*prefix, digit) not in self._below
        ]
        return sorted((b for b in bins if self.mass_of(b) >= min_mass), key=lambda b: (len(b), b))

    def mass(self) -> Numbers:
        """[10^digits], the mass of each number; sums to 1."""
        mass = np.full(10**self.digits, 0.1**self.digits)
        for prefix in sorted(self._below, key=len):
            size = 10 ** (self.digits - len(prefix))
            start = sum(d * 10 ** (self.digits - 1 - i) for i, d in enumerate(prefix))
            part = mass[start : start + size]
            part[:] = part.sum() * np.repeat(self._below[prefix], size // 10) / (size // 10)
        return mass


def digits_of(number: int, digits: int) -> Digits:
    """The digits of a number, zeros in front.

    >>> digits_of(7, 3)
    (0, 0, 7)
    """
    return tuple(int(digit) for digit in f"{number:0{digits}d}")


def all_prefixes(digits: int) -> list[Digits]:
    """All bins but the finest, by their number of digits.

    >>> len(all_prefixes(3))
    110
    """
    return [p for n in range(1, digits) for p in itertools.product(range(10), repeat=n)]


def _normalised(probabilities: ArrayLike) -> Numbers:
    p = np.asarray(probabilities, dtype=np.float64)
    total = p.sum()
    if p.shape != (10,) or not np.isfinite(p).all() or (p < 0).any() or total <= 0:
        raise DataError(
            f"{p.tolist()} are no probabilities of the ten digits; each must be at least 0, with a "
            "sum above 0"
        )
    return p / total
