"""Weights that are no numbers."""

from __future__ import annotations

import pytest
import torch

from posttrain.errors import ModelError
from posttrain.models.finite import check_finite


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_weight_is_named(value: float) -> None:
    module = torch.nn.Linear(2, 2)
    check_finite(module, "folder")
    with torch.no_grad():
        module.bias[1] = value
    with pytest.raises(ModelError, match=r"folder: .*'bias'"):
        check_finite(module, "folder")
