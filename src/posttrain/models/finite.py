"""Weights that are no numbers, found when a model is loaded and not when its first step
diverges.
"""

from __future__ import annotations

from typing import Any

import torch

from posttrain.errors import ModelError


def check_finite(module: Any, path: str) -> None:
    """Refuse a model with NaN or infinity in a weight. Weights without storage or in few bits are
    passed over.

    Raises:
        ModelError: names the first such tensor.
    """
    for name, weight in module.named_parameters():
        if weight.is_meta or not weight.is_floating_point() or weight.numel() == 0:
            continue
        low, high = torch.aminmax(weight.detach())  # one pass, no copy; NaN comes through
        if not (torch.isfinite(low) and torch.isfinite(high)):
            raise ModelError(
                f"{path}: the weight {name!r} holds NaN or infinity; "
                "copy or download the model again, or take an earlier checkpoint"
            )
