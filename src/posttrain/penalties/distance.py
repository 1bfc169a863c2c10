"""Squared distances of the trained parameters."""

from __future__ import annotations

from torch import Tensor

from posttrain.registry import penalties


@penalties.register
def l2(parameter) -> Tensor:
    """Squared size of the trained parameters (ridge; the gradient is weight * theta).

    R = 1/2 sum theta^2. Unlike weight_decay of AdamW (arXiv 1711.05101), its gradient passes
    through clipping and AdamW's moments, and biases and norms count. parameter [any] -> [].
    """
    return 0.5 * parameter.square().sum()


@penalties.register
def l2_to_start(parameter, start) -> Tensor:
    """Squared distance from the weights at the start of the run, against forgetting.

    R = 1/2 sum (theta - theta_0)^2; the recipe's weight is the strength. It is elastic weight
    consolidation with the same importance for every parameter (EWC, arXiv 1612.00796, whose
    baseline it is). parameter, start [any] -> [].
    """
    return 0.5 * (parameter - start).square().sum()
