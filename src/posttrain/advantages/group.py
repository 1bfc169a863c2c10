"""Baselines from the other completions of the same prompt.

rewards [P, G]: P prompts, G completions each; NaN = no reward (failed or not applicable), which gets advantage 0 and
does not count in any mean.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from posttrain.registry import advantages

Array = NDArray[np.float64]


def _nan_statistics(rewards: Array, axis: int | None) -> tuple[Array, Array]:
    """Mean and Bessel-corrected standard deviation that ignore NaN; 0 where there is nothing to average."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=RuntimeWarning)
        mean = np.nanmean(rewards, axis=axis, keepdims=True)
        std = np.nanstd(rewards, axis=axis, ddof=1, keepdims=True)
    return np.nan_to_num(mean), np.nan_to_num(std)


@advantages.register
def group_mean(rewards, *, scale: Literal["group", "batch", "none"] = "group", epsilon: float = 1e-4) -> NDArray[np.float64]:
    """GRPO's advantage: A_i = (r_i - mean of the group) / (std + epsilon).

    scale: whose standard deviation divides: the group's (GRPO, arXiv 2402.03300), the whole batch's, or none
    (Dr.GRPO, arXiv 2503.20783). Standard deviations are Bessel-corrected. A group whose rewards tie gets exactly 0.
    rewards [P, G] -> [P, G].
    """
    mean, std = _nan_statistics(rewards, axis=1)
    centred = rewards - mean
    # Rounding in the mean of equal rewards must not become a signal once it is divided by epsilon.
    centred = np.where(np.nanmax(np.abs(np.nan_to_num(centred)), axis=1, keepdims=True) < 1e-9, 0.0, centred)
    if scale == "batch":
        std = _nan_statistics(rewards, axis=None)[1]
    if scale != "none":
        centred = centred / (std + epsilon)
    return np.nan_to_num(centred)


@advantages.register
def leave_one_out(rewards) -> NDArray[np.float64]:
    """RLOO's advantage: A_i = r_i - mean of the other rewards of the group (arXiv 2402.14740).

    A completion without siblings that have a reward gets 0. rewards [P, G] -> [P, G].
    """
    counts = np.sum(~np.isnan(rewards), axis=1, keepdims=True)
    total = np.nansum(rewards, axis=1, keepdims=True)
    baseline = (total - rewards) / np.maximum(counts - 1, 1)
    return np.nan_to_num(np.where(counts > 1, rewards - baseline, 0.0))
