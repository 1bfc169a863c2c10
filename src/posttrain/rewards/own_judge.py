"""Rewards by a judge that is the policy itself: named without a model, bound to it later."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from posttrain import registry
from posttrain.config import Component

_NEEDED, _SOURCES = ("path", "engine"), ("path", "engine", "endpoint")


class EngineAhead:
    """Stands for the engine of a model that is not loaded yet, so that settings can be checked."""

    model = None

    def score(self, sequences: Any) -> list[list[float]]:
        """Refuses: nothing is scored before a model is there.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError("a judge was asked before its model was loaded")

    def generate(self, requests: Any) -> list[Any]:
        """Refuses, as `score` does.

        Raises:
            RuntimeError: always.
        """
        return self.score(requests)


def is_own_judge(reward: Component) -> bool:
    """Whether a reward is a judge that names no model."""
    if reward.function is not None:
        return False
    settings = registry.rewards.entry(reward.name).settings
    takes_a_model = all(name in settings for name in _NEEDED)
    return takes_a_model and not any(reward.settings.get(name) for name in _SOURCES)


def judged_by(rewards: Sequence[Component], engine: Any) -> list[Component]:
    """The rewards, with an engine in each judge that names no model."""
    return [
        dataclasses.replace(r, settings={**r.settings, "engine": engine}) if is_own_judge(r) else r
        for r in rewards
    ]
