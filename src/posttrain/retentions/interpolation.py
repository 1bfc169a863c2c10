"""Weights between those of a stage and earlier ones."""

from __future__ import annotations

import torch

from posttrain.errors import ConfigError
from posttrain.registry import retentions
from posttrain.retentions.base import Retention, Stage, trained_parameters
from posttrain.training.plan import Plan


class Interpolated(Retention):
    """After each stage the weights move back towards an anchor."""

    def __init__(self, alpha: float, anchor: str) -> None:
        self.alpha, self.anchor = alpha, anchor
        self._before: dict[str, torch.Tensor] = {}

    def begin(self, stage: Stage) -> Plan:
        """Remember the weights before the stage."""
        self._before = {
            name: p.detach().clone() for name, p in trained_parameters(stage.model).items()
        }
        return stage.plan

    def end(self, stage: Stage) -> None:
        """Move the weights towards the anchor."""
        anchor = stage.start if self.anchor == "start" else self._before
        with torch.no_grad():
            for name, p in trained_parameters(stage.model).items():
                # Not lerp from p: at 1 the weights stay as they are, bit by bit.
                if self.alpha != 1:
                    p.copy_((1 - self.alpha) * anchor[name] + self.alpha * p)
        stage.model.weights_version += 1


@retentions.register
def wise_ft(*, alpha: float = 0.5, anchor: str = "stage") -> Retention:
    """Interpolation in weight space (WiSE-FT, arXiv 2109.01903), after each stage.

    theta <- (1 - alpha) theta_anchor + alpha theta

    Args:
        alpha: 1 keeps the stage's weights, 0 the anchor's.
        anchor: "stage" for the weights before the stage, "start" for those before the sequence.
    """
    if not 0 <= alpha <= 1:
        raise ConfigError(f"wise_ft: alpha is {alpha}; it must be from 0 to 1")
    if anchor not in ("stage", "start"):
        raise ConfigError(f"wise_ft: anchor is {anchor!r}; it must be 'stage' or 'start'")
    return Interpolated(alpha, anchor)
