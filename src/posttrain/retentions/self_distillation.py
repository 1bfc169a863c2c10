"""Self-distillation in the place of fine-tuning: on policy, from demonstrations."""

from __future__ import annotations

from posttrain.config import SamplingConfig
from posttrain.errors import ConfigError
from posttrain.methods import sdft as method
from posttrain.registry import retentions
from posttrain.retentions.base import Retention, Stage
from posttrain.training.plan import Plan

_SHARED = (
    "data",
    "task",
    "learning_rate",
    "batch_size",
    "num_train_epochs",
    "lr_scheduler_type",
    "limits",
)


class SelfDistilled(Retention):
    """Every stage of method sft becomes one of method sdft, on the same rows."""

    def __init__(self, teacher_rate: float, max_tokens: int | None, num_generations: int) -> None:
        self.teacher_rate, self.max_tokens = teacher_rate, max_tokens
        self.num_generations = num_generations

    def begin(self, stage: Stage) -> Plan:
        """The plan of method sdft."""
        if stage.plan.method != "sft":
            raise ConfigError(
                f"sdft: it learns from demonstrations, and the stage is by {stage.plan.method!r}, "
                "which samples on policy already; choose another retention method"
            )
        shared = {name: stage.plan.settings[name] for name in _SHARED}
        return method.sdft(
            **shared,
            teacher_rate=self.teacher_rate,
            sampling=SamplingConfig(max_tokens=self.max_tokens),
            num_generations=self.num_generations,
        )


@retentions.register
def sdft(
    *, teacher_rate: float = 0.02, max_tokens: int | None = None, num_generations: int = 1
) -> Retention:
    """Self-distillation fine-tuning (arXiv 2601.19897) in the place of fine-tuning.

    The model completes each stage's prompts, and the model that also reads the worked completion
    is its teacher; see method `sdft`.

    Args:
        teacher_rate: share of the model in the teacher after each step; 0 is the model of the
            stage's start, which adapters need.
        max_tokens: of the completions; None is the task's.
        num_generations: completions per prompt.
    """
    if not 0 <= teacher_rate <= 1:
        raise ConfigError(f"sdft: teacher_rate is {teacher_rate}; it must be from 0 to 1")
    for name, value in (("max_tokens", max_tokens), ("num_generations", num_generations)):
        if value is not None and value < 1:
            raise ConfigError(f"sdft: {name} is {value}; it must be at least 1")
    return SelfDistilled(teacher_rate, max_tokens, num_generations)
