"""Influence: rows whose gradient points where the target's points."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from posttrain.registry import selectors
from posttrain.selectors.ranking import TINY, Places, highest


@selectors.register
def less(
    gradients: Any, target_gradients: Any, num: int, *, over: Literal["mean", "max"] = "mean"
) -> Places:
    """u_i = mean_v or max_v cos(g_i, g_v): LESS (arXiv 2402.04333, equation 3).

    g are projected gradients of the loss, of candidates [P, F] and of target rows [V, F]. The
    paper's g of a candidate is Adam's update and is summed over checkpoints; here it is the
    gradient at the present weights.

    over: the average of all target rows, or the nearest of them (the paper's maximum over
        sub-tasks).
    """
    cosines = _unit(gradients) @ _unit(target_gradients).T
    return highest(cosines.mean(1) if over == "mean" else cosines.max(1), num)


def _unit(rows: Any) -> Any:
    values = np.asarray(rows, dtype=np.float64)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), TINY)
