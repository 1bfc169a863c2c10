"""Joint training: the upper bound that has all data at once."""

from __future__ import annotations

import torch

from posttrain.registry import retentions
from posttrain.retentions.base import Retention, Stage, trained_parameters
from posttrain.retentions.replay import joined
from posttrain.training.plan import Plan


class Joint(Retention):
    """From the start again, on all stages so far."""

    def begin(self, stage: Stage) -> Plan:
        """The plan on all rows so far; the weights are those of the start again."""
        parameters = trained_parameters(stage.model)
        with torch.no_grad():
            for name, value in stage.start.items():
                parameters[name].copy_(value)
        stage.model.weights_version += 1
        return joined(stage.plan, list(stage.earlier), every=True) if stage.earlier else stage.plan


@retentions.register
def joint() -> Retention:
    """Train each stage from the weights of the start, on its rows and those of all stages before.

    It is no method against forgetting but the bound that they are compared with: it keeps all data
    and its cost grows with the number of stages. Every batch holds a batch of each stage.
    """
    return Joint()
