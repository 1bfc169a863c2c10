"""What a restarted completion has made of its beginning."""

from __future__ import annotations

import pytest

from posttrain.errors import ConfigError
from posttrain.rewards.base import RewardSet
from posttrain.rewards.reflection import reflection
from posttrain.types import Example, Task, Trace

TASK = Task("t", [Example("p")], lambda text, e: float(text == "right"), str)


def test_turns_for_the_better_and_for_the_worse() -> None:
    origins = [0.0, 0.0, 1.0, 1.0, None]
    examples = [Example("p", columns={"origin_reward": r}) for r in origins]
    texts = ["right", "wrong", "right", "wrong", "right"]
    assert reflection(texts, examples, TASK) == [1.0, 0.0, 0.0, -1.0, None]
    half = [Example("p", columns={"origin_reward": 0.5})]
    assert reflection(["wrong"], half, TASK, min_reward=0.5) == [-1.0]
    with pytest.raises(ConfigError):
        reflection(texts, examples, None)


def test_a_prompt_that_begins_nowhere_has_the_other_rewards() -> None:
    rewards = RewardSet(["task", {"name": "reflection", "weight": 0.5}], task=TASK)
    restarted, fresh = (Example("p", columns={"origin_reward": r}) for r in (0.0, None))
    assert rewards.score(restarted, [Trace.of_text("right")]) == [1.5]
    assert rewards.score(fresh, [Trace.of_text("right")]) == [1.0]
