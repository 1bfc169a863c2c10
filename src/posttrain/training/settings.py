"""The settings of a training that no method chooses."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from posttrain.component import ComponentLike
from posttrain.config import ComputeDtype, MuonScale, OptimizerName, Shard
from posttrain.errors import ConfigError, nearest
from posttrain.limits import check_values
from posttrain.typecheck import check_in_python, is_plain


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How a plan is trained, saved and measured. Cadences (`*_every`) are in steps, 0 = off.

    Attributes:
        max_tokens_per_micro_batch: distinct tokens that one forward pass holds. It sets the memory
            and never the result. None is 2,048 on a CPU and 16,384 elsewhere.
        optimizer: update rule: adamw; adamw_8bit, whose moments take one byte each; muon, which
            updates matrices of hidden layers by the orthogonal factor of their momentum, and all
            else as adamw does.
        muon_momentum, muon_scale: of Muon. match_rms_adamw makes its updates as large as AdamW's,
            so that AdamW's learning rates serve; original scales by sqrt(max(1, rows / columns)).
        ema_decay: decay per step of a moving average of the trained weights; 0 = off. Evaluations,
            held-out losses and the final model are then the average's; checkpoints hold both.
        weight_decay: decoupled, on matrices only.
        adam_beta1, adam_beta2, adam_epsilon: AdamW's moments and the term below its root.
        warmup_steps: steps of rising learning rate; below 1 a share of all steps.
        min_lr_ratio: share of the learning rate at which linear and cosine schedules end.
        penalties: terms over parameters that every update adds to the loss, such as
            {name: l2_to_start, weight: 0.1}.
        max_grad_norm: largest norm of the gradient; 0 = no bound.
        save_every: steps between checkpoints.
        save_seconds: a checkpoint is also written when so many seconds have passed since the last.
        save_final: whether the end of the run is saved as a checkpoint, to train on from.
        save_total_limit: checkpoints that are kept, the newest ones.
        eval_every: steps between measurements of held-out data and of the evaluation.
        report_to: trackers that get the metrics: tensorboard, wandb, trackio.
        shard: how many processes hold one copy of weights, gradients and moments between them
            (FSDP2): off, where each process holds all of it; full, all processes; or a number that
            divides them, of which there are then several copies.
        compute_dtype: of forward and backward passes of a model in shares; gradients are summed
            in float32. "auto" is the weights' own.
    """

    max_tokens_per_micro_batch: int | None = None
    optimizer: OptimizerName = "adamw"
    muon_momentum: float = 0.95
    muon_scale: MuonScale = "match_rms_adamw"
    ema_decay: float = 0.0
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    warmup_steps: float = 0.0
    min_lr_ratio: float = 0.0
    max_grad_norm: float = 1.0
    save_every: int = 0
    save_seconds: float = 600.0
    save_final: bool = True
    save_total_limit: int = 2
    eval_every: int = 0
    report_to: tuple[str, ...] = ()
    penalties: tuple[ComponentLike, ...] = ()
    shard: Shard = "off"
    compute_dtype: ComputeDtype = "auto"

    def __post_init__(self) -> None:
        names = [f.name for f in dataclasses.fields(self)]
        check_values({name: getattr(self, name) for name in names})
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            unread = field.name.startswith("muon_") and self.optimizer != "muon"
            if unread and value != field.default:
                raise ConfigError(
                    f"{field.name}: {value} changes nothing with optimizer {self.optimizer!r}; "
                    "set optimizer: muon, or leave it out"
                )

    @classmethod
    def of(
        cls, options: Mapping[str, Any], method: str = "", taken: Collection[str] = ()
    ) -> TrainingSettings:
        """Settings by name.

        Args:
            method: of the plan that is trained. taken: the settings that the method takes.

        Raises:
            ConfigError: there is no setting of a name, or a value is of the wrong type.
        """
        hints = typing.get_type_hints(cls)
        for name in options:
            if name in taken:
                raise ConfigError(
                    f"fit has no setting {name!r}: it belongs to the plan: pt.{method}(..., "
                    f"{name}=...)"
                )
            if name not in hints:
                names = [*hints, *("steps", "output", "resume", "accept", "hooks", "seed")]
                renamed = name == "max_steps"
                hint = "it is called 'steps' here" if renamed else nearest(name, names)
                raise ConfigError(f"fit has no setting {name!r}: {hint}")
        return cls(
            **{
                name: check_in_python(value, hints[name], name) if is_plain(hints[name]) else value
                for name, value in options.items()
            }
        )
