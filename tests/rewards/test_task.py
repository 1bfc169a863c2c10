"""The task's own verdict as a reward."""

from __future__ import annotations

import pytest

from posttrain.rewards.task import task as reward
from posttrain.types import Example, Task, plain_text

SEEN: list[str] = []


def graded(text: str, example: Example) -> float:
    SEEN.append(text)
    return 0.5 if text == example.answer else 0.0


TASK = Task("t", [], graded, str)


def test_each_completion_is_graded_for_its_own_example() -> None:
    examples = [Example("a", answer="1"), Example("b", answer="2")]
    assert reward(["1", "1"], examples, TASK) == [0.5, 0.0]


def test_of_messages_the_last_one_is_graded() -> None:
    messages = [{"role": "tool", "content": "1"}, {"role": "assistant", "content": "2"}]
    assert reward([messages], [Example("b", answer="2")], TASK) == [0.5]
    assert SEEN[-1] == "2"


def test_every_completion_needs_an_example() -> None:
    with pytest.raises(ValueError):
        reward(["1", "2"], [Example("a", answer="1")], TASK)


def test_messages_are_one_line_per_turn_for_people() -> None:
    assert plain_text([{"role": "user", "content": "a"}, {"role": "tool"}]) == "user: a\ntool: "
    assert plain_text("a") == "a"
