"""Metrics of completions that get no training pass, because their gradient is known to be zero."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from posttrain.averages import Averages
from posttrain.data.forest import Batch
from posttrain.losses.reduce import Totals
from posttrain.models.forest_model import evaluating
from posttrain.training.objective import Objective


def idle_metrics(
    model: Any, objective: Objective, batch: Batch, totals: Totals, max_tokens: int
) -> Averages:
    """The objective's metrics on the idle trees of a batch, by a forward pass without gradient.

    Entropy, clip ratios and the gap between sampler and trainer are means over all completion
    tokens of a step, as in TRL; completions whose rewards tie are among them. The pass costs about
    a third of a training pass over these trees (GRPO on the embedded model on a CPU, 35 % of groups
    tied: 3.5 % of a step). Dropout is off, so that no random number is drawn and the weights do not
    depend on whether this runs. The loss is left out: these trees add exactly zero.
    """
    averages = Averages()
    trees = [tree for tree in batch.idle if tree.num_targets]
    if not trees or not objective.measure_idle:
        return averages
    needs = objective.needs - {"entropy_gradient"}
    critic = contextlib.nullcontext() if model.critic is None else evaluating(model.critic.hf)
    with torch.no_grad(), evaluating(model.hf), critic:
        for micro in Batch(trees, whole=batch.whole).split(max_tokens, share_trunks=True):
            micro = micro.to(model.device)
            outputs = model.forward(micro, needs, temperature=objective.temperature)
            averages.merge(objective(outputs, micro, totals)[1])
    averages.clear_totals()
    return averages
