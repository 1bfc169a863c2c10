"""Where the frozen reference of a training comes from, and how it moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from posttrain.data.forest import TokenSequence
from posttrain.errors import ConfigError
from posttrain.models.spec import ModelSpec
from posttrain.models.vocabulary import DERIVED
from posttrain.terminal import write
from posttrain.training.hooks import Hook
from posttrain.training.objective import Objective
from posttrain.training.reference import add_ref_logprobs, cache_folder


@dataclass(frozen=True, slots=True)
class Reference:
    """The reference of a plan: the model that the run starts from.

    Attributes:
        needed: a reference is needed even where no loss asks for one (KL in the reward).
        cached: its log-probs are computed before training and kept on disk, so that no copy of it
            is held in memory.
        every, mix: each `every` steps (0 = never) it moves to mix * policy + (1 - mix) * reference.
    """

    needed: bool = False
    cached: bool = False
    every: int = 0
    mix: float = 1.0

    def check(self, objective: Objective) -> None:
        """Refuse settings that cannot work.

        Raises:
            ConfigError: names the setting and the way out.
        """
        key = "cache_reference" if self.cached else "reference_every"
        if (self.cached or self.every) and not objective.needs_reference:
            raise ConfigError(f"{key}: none of the losses asks for a reference; leave it out")
        if self.cached and self.every:
            raise ConfigError(
                "cache_reference and reference_every: a reference that moves cannot be cached; "
                "choose one"
            )
        whole = [n for n in sorted(objective.needs) if "ref_distribution" in DERIVED.get(n, (n,))]
        if self.cached and whole:
            raise ConfigError(
                f"cache_reference: a loss needs {whole[0]}, whole distributions, which are not "
                "kept; leave it out"
            )
        if self.every < 0 or not 0 < self.mix <= 1:
            raise ConfigError(
                f"reference_every: {self.every} must not be negative, and reference_mix: "
                f"{self.mix} must be above 0, at most 1"
            )

    def check_model(self, spec: ModelSpec) -> None:
        """Refuse to mix adapters, which are taken over whole.

        Raises:
            ConfigError: the model has adapters and `mix` is below 1.
        """
        if self.every and self.mix < 1 and spec.has_adapters:
            raise ConfigError(
                f"reference_mix: {self.mix} mixes weights, but adapters are taken over whole; set "
                "it to 1"
            )

    def in_memory(self, objective: Objective) -> bool:
        """Whether the frozen model is held beside the one that is trained."""
        return (objective.needs_reference or self.needed) and not self.cached

    def cache(
        self,
        model: Any,
        groups: Sequence[Sequence[TokenSequence]],
        *,
        max_tokens: int,
        console: Console,
    ) -> None:
        """Give sequences their reference log-probs, from the disk where they are there."""
        cached, computed = add_ref_logprobs(
            model, groups, max_tokens=max_tokens, folder=cache_folder() / "reference"
        )
        write(console, f"reference log-probs: {cached} sequences found, {computed} computed")

    def hooks(self, model: Any) -> list[Hook]:
        """What moves the reference. Checkpoints are made after it and hold it."""
        if not self.every:
            return []

        def move(step: int, metrics: dict[str, float]) -> None:
            if step % self.every == 0:
                model.update_reference(self.mix)

        return [move]
