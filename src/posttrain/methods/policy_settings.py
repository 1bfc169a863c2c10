"""The settings of a policy-gradient method, as one value."""

from __future__ import annotations

from dataclasses import dataclass

from posttrain import registry
from posttrain.config import (
    Component,
    CreditConfig,
    EngineLike,
    Limits,
    OverlapConfig,
    SamplingConfig,
    TrustRegionConfig,
)
from posttrain.methods.episodes import Episodes
from posttrain.methods.objects import Rows, TaskLike
from posttrain.training.plan import Critic


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyGradient:
    """Settings of a policy-gradient method; the methods' own docstrings say what each is."""

    rewards: list[Component]
    losses: list[Component]
    advantage: Component
    credit: CreditConfig
    sampling: SamplingConfig
    num_generations: int
    batch_size: int
    num_iterations: int
    num_minibatches: int
    mask_truncated: bool
    max_resamples: int
    num_train_epochs: float
    limits: Limits
    engine: EngineLike = "embedded"
    episodes: Episodes | None = None
    overlap: OverlapConfig | None = None
    drop_duplicates: bool = False
    trust_region: TrustRegionConfig | None = None
    critic: Critic | None = None
    mix_data: Rows | None = None
    mix_task: TaskLike | None = None
    mix_batch_size: int = 8
    given_steps: int = 0
    measure_tied_groups: bool = True

    @property
    def loss_inputs(self) -> set[str]:
        """What the losses ask for."""
        return {name for c in self.losses for name in registry.losses.entry_of(c).inputs}

    @property
    def advantage_inputs(self) -> tuple[str, ...]:
        """What the estimator asks for."""
        return registry.advantages.entry_of(self.advantage).inputs

    @property
    def corrects(self) -> bool:
        """Whether it matters to the update which weights sampled a token."""
        c = self.credit
        named = c.importance_correction != "none" or c.rejection != "none"
        return named or "engine_logprobs" in self.loss_inputs

    @property
    def mixes(self) -> bool:
        """Whether every update also learns from rows."""
        return self.mix_data is not None or self.mix_task is not None

    @property
    def compares_groups(self) -> bool:
        """Whether a loss compares the completions of a prompt."""
        return any(registry.losses.entry_of(c).per == "group" for c in self.losses)
