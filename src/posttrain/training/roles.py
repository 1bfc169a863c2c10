"""The models of a training: the one that is trained, its reference, critic and teacher."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from posttrain.errors import ModelError
from posttrain.models.foreign import ForeignTeacher
from posttrain.models.forest_model import ForestModel
from posttrain.models.spec import ModelSpec
from posttrain.training.objective import Objective
from posttrain.training.plan import Plan
from posttrain.training.settings import TrainingSettings
from posttrain.world import World

_TOLERANCE = 1e-6  # of norms in float64, whose sums another processor takes in another order


def load_models(
    spec: ModelSpec,
    plan: Plan,
    objective: Objective,
    weights: Path | None = None,
    *,
    goes_on: bool = False,
) -> Any:
    """The model of a plan with its helpers.

    Args:
        objective: what is minimised; it says whether a reference is needed.
        weights: the folder of a checkpoint; None loads the model as the run starts.
        goes_on: an earlier fit is gone on from, so the critic is the one that it trained.
    """
    if plan.scores is not None:
        return spec.load_scores(per=plan.scores, weights=weights)
    model = spec.load(reference=plan.reference.in_memory(objective), weights=weights)
    if plan.critic is not None:
        critic = plan.critic.model or spec.as_critic(adapters=plan.critic.adapters)
        place = weights / "critic" if weights else None
        model.critic = (
            spec.load_critic()
            if goes_on and weights is None and spec.has_critic
            else critic.load_scores(per="token", weights=place)
        )
        rate = plan.optimizer.learning_rate
        factor = (plan.critic.learning_rate or rate) / rate
        model.rate_factors |= dict.fromkeys(model.critic.trainable_parameters(), factor)
    if plan.teacher is not None:
        model.teacher = plan.teacher.load_frozen()
        model.foreign = ForeignTeacher(model.teacher, spec.tokenizer)
    model.neftune_noise_alpha = plan.noise
    return model


def specs_of(spec: ModelSpec, plan: Plan) -> dict[str, ModelSpec]:
    """The models that a plan names, and the one that is trained ("model")."""
    models = {"model": spec}
    if plan.teacher is not None:
        models["teacher"] = plan.teacher
    if plan.critic is not None and plan.critic.model is not None:
        models["critic"] = plan.critic.model
    return models


def micro_batch_tokens(model: ForestModel, settings: TrainingSettings) -> int:
    """Distinct tokens that one forward pass may hold: as set, or what suits the device."""
    default = 2048 if model.device.type == "cpu" else 16384
    return settings.max_tokens_per_micro_batch or default


def check_same_weights(world: World, model: Any) -> None:
    """Refuse to train together from weights that differ between the processes.

    Raises:
        ModelError: gives the norm of the weights in each.
    """
    if world.size == 1:
        return
    parts = [model.hf, model.critic.hf] if getattr(model, "critic", None) else [model.hf]
    weights = [p.detach().double() for part in parts for p in part.parameters()]
    norms = world.gather(sum(float(w.square().sum()) for w in weights) ** 0.5)
    if any(not math.isclose(norm, norms[0], rel_tol=_TOLERANCE) for norm in norms):
        raise ModelError(
            f"the norms of the weights differ between the processes: {norms}; give all of them "
            "the same files"
        )
