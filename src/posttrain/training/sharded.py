"""Training with a model that lies in shares in several processes: what is refused, and how many
passes each process makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from posttrain.data.forest import Batch, Forest, Tree
from posttrain.errors import ConfigError
from posttrain.models.peft_kind import VIRTUAL_KINDS, adapter_kind
from posttrain.training.objective import Objective
from posttrain.training.plan import Plan
from posttrain.training.settings import TrainingSettings
from posttrain.world import World


def check_shard(settings: TrainingSettings, plan: Plan, *, goes_on: bool = False) -> None:
    """Refuse what cannot be trained in shares, before weights are loaded.

    Args:
        goes_on: whether the fit goes on from another one, whose state is in memory.
    Raises:
        ConfigError: names the setting and the way out.
    """
    if isinstance(settings.shard, int) and settings.shard < 2:
        raise ConfigError(
            f"shard: {settings.shard} processes cannot share a model; set full, off, or a number "
            "from 2"
        )
    if settings.shard == "off":
        if settings.compute_dtype != "auto":
            raise ConfigError(
                f"compute_dtype: {settings.compute_dtype} is read where the model is in shares; "
                "set shard, or model.dtype"
            )
        return
    whole = {
        "trust_region": plan.trust_region is not None,
        "penalties": bool(settings.penalties),
        "ema_decay": settings.ema_decay > 0,
        f"optimizer: {settings.optimizer}": settings.optimizer != "adamw",
        "a retention method": bool(plan.rules),
        "reference_every": bool(plan.reference.every),
        "a fit that goes on from another": goes_on,
    }
    for name, is_set in whole.items():
        if is_set:
            raise ConfigError(
                f"{name} needs whole weights in one process; leave it out, or set shard: off"
            )


def group_size(settings: TrainingSettings, world: World) -> int:
    """How many processes hold one copy of the model; 0 where each holds all of it.

    Raises:
        ConfigError: the processes cannot be grouped so.
    """
    if settings.shard == "off":
        return 0
    size = world.size if settings.shard == "full" else int(settings.shard)
    if world.size == 1:
        raise ConfigError(
            f"shard: {settings.shard} shares a model among processes, and this is one; start "
            "several by torchrun, or set shard: off"
        )
    if world.size % size:
        raise ConfigError(
            f"shard: {size} does not divide the {world.size} processes; set full, or a divisor"
        )
    return size


def shard_models(model: Any, settings: TrainingSettings, world: World) -> None:
    """Share a model, its reference, its critic and its teacher among the processes.

    Raises:
        ConfigError: its adapters or quantised weights cannot be shared.
    """
    group = group_size(settings, world)
    if not group:
        return
    kind = adapter_kind(model.hf)
    if kind in VIRTUAL_KINDS or kind == "ADALORA" or getattr(model.hf, "is_quantized", False):
        raise ConfigError(
            f"shard: {kind or 'quantised weights'} cannot be shared; use model.lora or all "
            "weights, or set shard: off"
        )
    from posttrain.models.sharding import Sharding  # FSDP is imported where it is used

    dtype = torch.bfloat16 if settings.compute_dtype == "bfloat16" else None
    model.share_among(
        Sharding(world.size, group, is_main=world.is_main, device=model.device, compute_dtype=dtype)
    )


def passes_behind(model: Any, num_passes: int, world: World) -> int:
    """How many passes fewer this process has to make than the one with most micro-batches, where
    the model is in shares: every pass gathers weights of all processes.
    """
    return world.same_count(num_passes) - num_passes if is_in_shares(model) else 0


def empty_passes(model: Any, objective: Objective, batch: Batch, count: int) -> None:
    """So many forward and backward passes with a loss of 0."""
    if not count:
        return
    shortest = min((s for tree in batch.trees for s in tree.sequences), key=lambda s: len(s.ids))
    micro = Forest.pack([Tree.build([shortest])]).to(model.device)
    for _ in range(count):
        outputs = model.forward(micro, objective.needs, temperature=objective.temperature)
        model.backward(zero_loss(outputs))


def zero_loss(outputs: Mapping[str, Any]) -> torch.Tensor:
    """0, with a gradient of 0 for every parameter that the outputs depend on."""
    tensors = [x for x in outputs.values() if isinstance(x, torch.Tensor) and x.requires_grad]
    return torch.stack([x[:0].sum() for x in tensors]).sum()


def is_in_shares(model: Any) -> bool:
    """Whether the model is shared among processes."""
    return getattr(model, "sharding", None) is not None
