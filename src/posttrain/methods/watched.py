"""What a policy-gradient method watches for reward hacking: from settings to a watch."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

from posttrain.config import Component, WatchConfig
from posttrain.errors import ConfigError
from posttrain.evaluation.reward_watch import Watch
from posttrain.methods.objects import components_of, rewards_of
from posttrain.methods.policy_settings import PolicyGradient
from posttrain.rewards.base import RewardSet
from posttrain.types import Sampling, Task


@dataclass(frozen=True, slots=True)
class Watching:
    """The watch of a plan, checked, before there is a model.

    Attributes:
        gold: rewards that are watched; None without any.
    """

    config: WatchConfig
    task: Task
    sampling: Sampling
    gold: RewardSet | None

    @classmethod
    def of(cls, s: PolicyGradient, task: Task, sampling: Sampling) -> Watching | None:
        """The watch of the settings; None without one.

        Raises:
            ConfigError: a watch that sees nothing, or a gold reward that is trained on.
        """
        if s.watch is None:
            return None
        gold = components_of(s.watch.gold)
        _check(s.watch, gold, s)
        return cls(s.watch, task, sampling, rewards_of(gold, task, s.limits) if gold else None)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is printed before the training."""
        if self.gold is None:
            return ()
        names = ", ".join(self.gold.names)
        return (f"watch.gold: {names} is an oracle: it is watched and never trained on",)

    def watch(self, proxy: RewardSet, tokenizer: Any) -> Watch:
        """The watch itself."""
        encode = functools.partial(tokenizer.encode, add_special_tokens=False)
        return Watch(self.config, proxy, self.gold, self.task, encode, self.sampling.max_tokens)

    def close(self) -> None:
        """Release what the gold rewards hold."""
        if self.gold is not None:
            self.gold.close()


def _check(c: WatchConfig, gold: list[Component], s: PolicyGradient) -> None:
    for name in ("gold_every", "num_probe_prompts", "window", "patience"):
        if getattr(c, name) < 1:
            raise ConfigError(f"watch.{name}: {getattr(c, name)} must be at least 1")
    for name in ("kl_every", "probe_every"):
        if getattr(c, name) < 0:
            raise ConfigError(f"watch.{name}: {getattr(c, name)} must not be negative; 0 is off")
    if c.max_growth <= 1 or not 0 <= c.max_drop < 1:
        raise ConfigError(
            f"watch: max_growth {c.max_growth} must be above 1, and max_drop {c.max_drop} from 0 "
            "to below 1"
        )
    for item in gold:
        if item in s.rewards:
            raise ConfigError(
                f"watch.gold: {item.name!r} is trained on, and tells nothing of hacking then; "
                "watch a reward that is not among rewards"
            )
    unseen = {"gold_falls": not gold, "probes": not c.probe_every}
    for name in c.stop_on:
        if unseen.get(name):
            way = "name a gold reward" if name == "gold_falls" else "set watch.probe_every"
            raise ConfigError(f"watch.stop_on: {name} can never be raised; {way}, or leave it out")
    if c.probe_every and s.episodes is not None:
        raise ConfigError(
            "watch.probe_every: probes are completions of a prompt, and an environment's episodes "
            "have several turns; set it to 0"
        )
    if c.probe_every and s.overlap is not None and s.overlap.max_staleness:
        raise ConfigError(
            "watch.probe_every: the rewards are busy in another thread while rollouts are sampled "
            "ahead; set it to 0, or overlap.max_staleness to 0"
        )
    if c.probe_every and not (c.probes or c.texts):
        raise ConfigError("watch.probe_every: there is no probe; name probes or texts")


def watch_text(c: WatchConfig) -> str:
    """What is watched, as a check shows it."""
    names = ", ".join(item.name for item in components_of(c.gold))
    parts = [f"gold {names} (oracle: watched, never trained on)"] if names else []
    parts += [f"{len(c.probes) + len(c.texts)} probes every {c.probe_every}"] * bool(c.probe_every)
    parts += [f"ends on {', '.join(c.stop_on)}"] * bool(c.stop_on)
    return "; ".join(parts) or "length, repetition, answers"
