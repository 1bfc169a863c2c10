"""Losses of a critic."""

from __future__ import annotations

import torch
from torch import Tensor

from posttrain.losses.inputs import Metrics
from posttrain.registry import losses


@losses.register(per="token")
def value(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float | None = 0.2
) -> tuple[Tensor, Metrics]:
    """Squared error of a critic, clipped as PPO's is (arXiv 1707.06347 and its reference
    implementation).

    l = 1/2 max((V - R)^2, (V_clipped - R)^2),  V_clipped = V within clip of V_old

    With clip None, l = 1/2 (V - R)^2. V_old is what the critic said before the step's first update.
    All inputs [M] -> [M].
    """
    error = (values - returns).square()
    metrics = {
        "value/mean": values.detach(),
        "value/return": returns,
        "value/error": error.detach(),
    }
    if clip is None:
        return error / 2, metrics
    bounded = old_values + (values - old_values).clamp(-clip, clip)
    worse = (bounded - returns).square()
    return torch.maximum(error, worse) / 2, {**metrics, "value/clip_ratio": (worse > error).float()}
