"""What an environment itself says of an episode."""

from __future__ import annotations

from posttrain.registry import rewards


@rewards.register
def environment(traces) -> list[float | None]:
    """The reward that the environment gives an episode: that of the whole (its `get_reward`), else
    the sum of those of its steps. None where it gives neither.
    """
    return [_reward(trace) for trace in traces]


def _reward(trace) -> float | None:
    whole = trace.rewards.get("environment")
    if whole is not None:
        return float(whole)
    steps = [turn.reward for turn in trace.turns if turn.reward is not None]
    return float(sum(steps)) if steps else None
