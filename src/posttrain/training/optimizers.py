"""The optimiser of a plan: AdamW with its schedule and penalties, or a trust region."""

from __future__ import annotations

from typing import Any

from posttrain.config import Component
from posttrain.models.adapters import updates_of
from posttrain.models.forest_model import ForestModel
from posttrain.training.objective import Objective
from posttrain.training.optim import Optimizer
from posttrain.training.penalties import Penalties
from posttrain.training.plan import Plan
from posttrain.training.roles import micro_batch_tokens
from posttrain.training.settings import TrainingSettings
from posttrain.training.trust_region import TrustRegion


def make_optimizer(
    model: ForestModel,
    plan: Plan,
    objective: Objective,
    settings: TrainingSettings,
    steps: int,
) -> Any:
    """What updates the trained weights of a model in a run of so many steps."""
    penalties = [Component.of(item) for item in settings.penalties]
    adamw = Optimizer(
        model.trainable_parameters(),
        steps=steps,
        learning_rate=plan.optimizer.learning_rate,
        weight_decay=settings.weight_decay,
        betas=(settings.adam_beta1, settings.adam_beta2),
        epsilon=settings.adam_epsilon,
        schedule=plan.optimizer.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        min_lr_ratio=settings.min_lr_ratio,
        max_grad_norm=settings.max_grad_norm,
        rate_factors=model.rate_factors,
        updates=updates_of(model.hf, steps),
        penalties=Penalties(penalties, model.hf.named_parameters()) if penalties else None,
    )
    if plan.trust_region is None:
        return adamw
    limit = micro_batch_tokens(model, settings)
    return TrustRegion(model, objective, plan.trust_region, rest=adamw, max_tokens=limit)
