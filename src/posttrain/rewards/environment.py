"""What an environment itself says of an episode."""

from __future__ import annotations

from posttrain.registry import rewards
from posttrain.types import Trace


@rewards.register
def environment(traces, examples) -> list[float | None]:
    """The reward that the environment gives an episode: that of the whole (its `get_reward`), else
    the sum of those of its steps.

    Where an environment rewards steps, the sum is 0 for an episode that was cut before its first
    step. None where it gives no reward at all.
    """
    # Rows may name one of several environments.
    names = [example.columns.get("environment") for example in examples]
    pairs = list(zip(names, traces, strict=True))
    stepped = [
        name for name, trace in pairs if any(turn.reward is not None for turn in trace.turns)
    ]
    return [episode_reward(trace, rewards_steps=name in stepped) for name, trace in pairs]


def episode_reward(trace: Trace, *, rewards_steps: bool = False) -> float | None:
    """The environment's reward of an episode: of the whole, else the sum of those of its steps.

    Args:
        rewards_steps: the environment rewards steps, so that an episode without any has 0.
    """
    whole = trace.rewards.get("environment")
    if whole is not None:
        return float(whole)
    steps = [turn.reward for turn in trace.turns if turn.reward is not None]
    return float(sum(steps)) if steps or rewards_steps else None
