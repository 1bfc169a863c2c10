"""Learning without forgetting: the model of the stage before is imitated on the new inputs."""

from __future__ import annotations

import copy
from dataclasses import replace

from posttrain.config import Component
from posttrain.errors import ConfigError
from posttrain.models.loaded import LoadedModel
from posttrain.registry import retentions
from posttrain.retentions.base import Retention, Stage, with_term
from posttrain.training.plan import Plan


class Distilled(Retention):
    """A frozen copy of the model as the stage begins, as the teacher of one more loss."""

    def __init__(self, weight: float, temperature: float) -> None:
        self.weight, self.temperature = weight, temperature

    def begin(self, stage: Stage) -> Plan:
        """The plan with one more loss and the old model as its teacher."""
        if not stage.earlier:
            return stage.plan
        if stage.plan.teacher is not None:
            raise ConfigError(
                "lwf: the stage has a teacher of its own, and a plan takes one; choose another "
                "retention method"
            )
        settings = {"temperature": self.temperature}
        term = Component("teacher_kl", settings, weight=self.weight)
        plan = with_term(stage.plan, term, ("teacher_distribution",))
        old = copy.deepcopy(stage.model)
        old.eval()
        for p in old.hf.parameters():
            p.requires_grad_(False)
        return replace(plan, teacher=LoadedModel(old))


@retentions.register
def lwf(*, weight: float = 1.0, temperature: float = 1.0) -> Retention:
    """Learning without forgetting (arXiv 1606.09282).

    L + weight mean_t KL(pi_old || pi) on the tokens of the stage's own rows, where pi_old is the
    model that the stage before left.

    Args:
        weight: of the divergence.
        temperature: what both models' logits are divided by; the paper takes 2.
    """
    if not weight >= 0:
        raise ConfigError(f"lwf: weight is {weight}; it must not be negative")
    if not temperature > 0:
        raise ConfigError(f"lwf: temperature is {temperature}; it must be above 0")
    return Distilled(weight, temperature)
