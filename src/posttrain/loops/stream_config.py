"""The settings of one stream of domains, and the learning rates of its stages."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.errors import ConfigError


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """The settings of one stream; see `continual_pretraining`."""

    order: Literal["random", "similar", "swapped", "given"] = "random"
    name: str = ""
    replay_share: float = 0.0
    batch_size: int = 16
    learning_rate: float = 1e-4
    rate_schedule: Literal["rewarmed", "continued", "constant"] = "rewarmed"
    steps_per_domain: int = 100
    train_characters: int | None = None

    def check(self, where: str) -> None:
        """Refuse values out of range.

        Raises:
            ConfigError: names the setting.
        """
        if not 0 <= self.replay_share < 1:
            raise ConfigError(
                f"{where}.replay_share: {self.replay_share} is the share of a stage that is "
                "replayed; it must be at least 0 and below 1"
            )
        for key in ("batch_size", "steps_per_domain", "learning_rate", "train_characters"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ConfigError(f"{where}.{key}: {value} must be above 0")

    @property
    def alone_key(self) -> tuple[Any, ...]:
        """What a training on one domain alone depends on."""
        size = self.batch_size, self.steps_per_domain, self.train_characters
        return (*size, self.learning_rate, self.rate_schedule == "constant")


def stage_rates(
    stream: StreamConfig, schedule: tuple[Any, float, float], number: int, total: int
) -> dict[str, Any]:
    """The learning rate of a stage: its peak, form, warm-up and end.

    Args:
        schedule: form, warm-up and end of a stage that is rewarmed.
        number: of the stage, from 0. total: stages of the stream.
    """
    form, warmup, least = schedule
    peak = stream.learning_rate
    if stream.rate_schedule == "constant":
        form, warmup, least = "constant", 0.0, 0.0
    elif stream.rate_schedule == "continued":  # the part of one line from the peak to zero
        form, warmup = "linear", 0.0 if number else warmup
        peak *= 1 - number / total
        least = (total - number - 1) / (total - number)
    return {
        "learning_rate": peak,
        "lr_scheduler_type": form,
        "warmup_steps": warmup,
        "min_lr_ratio": least,
    }


def of_one(stream: StreamConfig) -> StreamConfig:
    """The settings of a training on one domain, which a schedule of many stages does not fit."""
    if stream.rate_schedule != "continued":
        return stream
    return dataclasses.replace(stream, rate_schedule="rewarmed")
