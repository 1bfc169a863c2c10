"""A reward for what a restarted completion has made of its beginning."""

from __future__ import annotations

from posttrain.errors import ConfigError
from posttrain.registry import rewards


@rewards.register
def reflection(completions, examples, task, *, min_reward: float = 1.0) -> list[float | None]:
    """1 where a completion that began as a wrong one is right now, -1 where one that began as a
    right one is wrong now, else 0 (the reflection bonus of Satori, arXiv 2502.02508).

    It reads the column origin_reward, which method restarts writes: the reward of the completion
    that the prompt begins with. A prompt that begins nowhere has no reward (None). Add it to the
    reward task, with a weight such as 0.3. min_reward: the least reward of a right completion.
    """
    if task is None:
        raise ConfigError("rewards: reflection asks a task which completions are right; name one")
    values: list[float | None] = []
    for completion, example in zip(completions, examples, strict=True):
        origin = example.columns.get("origin_reward")
        if origin is None:
            values.append(None)
            continue
        text = completion if isinstance(completion, str) else str(completion[-1]["content"])
        is_right, was_right = task.score(text, example) >= 1, origin >= min_reward
        values.append(float(is_right) - float(was_right))
    return values
