"""Rules that settings of several losses share."""

from __future__ import annotations

import math


def check_positive(**settings: float) -> None:
    """Refuse a setting that a loss divides by, unless it is a finite number above 0.

    Raises:
        ValueError: names the setting and its value.
    """
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise ValueError(
                f"{name} is {value}; it must be a finite number above 0, as the loss divides by it"
            )
