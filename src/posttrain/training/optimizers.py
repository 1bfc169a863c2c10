"""The optimiser of a plan: an update rule with schedule and penalties, or a trust region."""

from __future__ import annotations

from typing import Any

from posttrain.config import Component
from posttrain.errors import ConfigError
from posttrain.models.adapters import updates_of
from posttrain.models.forest_model import ForestModel
from posttrain.training.objective import Objective
from posttrain.training.optim import Optimizer
from posttrain.training.penalties import Penalties
from posttrain.training.plan import Plan
from posttrain.training.roles import micro_batch_tokens
from posttrain.training.settings import TrainingSettings
from posttrain.training.trust_region import TrustRegion
from posttrain.training.update_rules import UpdateRule, hidden_matrices


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
        rule=_update_rule(model, settings),
        schedule=plan.optimizer.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        min_lr_ratio=settings.min_lr_ratio,
        max_grad_norm=settings.max_grad_norm,
        rate_factors=model.rate_factors,
        updates=updates_of(model.hf, steps),
        penalties=Penalties(penalties, model.hf.named_parameters()) if penalties else None,
        ema_decay=settings.ema_decay,
    )
    if plan.trust_region is None:
        return adamw
    limit = micro_batch_tokens(model, settings)
    return TrustRegion(model, objective, plan.trust_region, rest=adamw, max_tokens=limit)


def check_optimizer(plan: Plan, settings: TrainingSettings, *, goes_on: bool) -> None:
    """Refuse settings of an optimiser that the plan does not use.

    Args:
        goes_on: an earlier fit, or round of a loop, is gone on from.

    Raises:
        ConfigError: another rule than AdamW beside a trust region, or an average of weights in a
            fit that goes on from another one.
    """
    if plan.trust_region is not None and settings.optimizer != "adamw":
        raise ConfigError(
            f"optimizer: {settings.optimizer!r} beside trust_region, which updates the policy by "
            "itself; leave one of them out"
        )
    if goes_on:
        refuse_average(settings)


def refuse_average(settings: TrainingSettings) -> None:
    """Refuse an average of weights in a fit that goes on from another one, or a loop of them.

    Raises:
        ConfigError: an earlier fit's model would be the average, and not what it trained.
    """
    if settings.ema_decay > 0:
        raise ConfigError(
            f"ema_decay: {settings.ema_decay} beside fits that go on from each other: the model "
            "that an earlier fit leaves would be the average of its weights; resume one run "
            "instead, or leave it out"
        )


def _update_rule(model: ForestModel, settings: TrainingSettings) -> UpdateRule:
    matrices: frozenset[Any] = frozenset()
    if settings.optimizer == "muon":
        critic = getattr(model, "critic", None)
        roots = [model.hf, *([critic.hf] if critic is not None else [])]
        matrices = hidden_matrices(roots)
    return UpdateRule(
        settings.optimizer,
        betas=(settings.adam_beta1, settings.adam_beta2),
        epsilon=settings.adam_epsilon,
        muon_momentum=settings.muon_momentum,
        muon_scale=settings.muon_scale,
        matrices=matrices,
    )
