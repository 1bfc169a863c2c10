"""Rewards of arithmetic steps."""

from __future__ import annotations

from posttrain import registry
from posttrain.rewards.process import arithmetic_steps


def test_steps_with_many_digits_are_wrong_steps() -> None:
    task = registry.tasks.bind("arithmetic", {"num_examples": 1})()
    line = "7" * 5000 + "+1=" + "7" * 5000
    assert arithmetic_steps([f"{line}\n1+1=2\n#### x"], task, [task.examples[0]]) == [
        [0.0, 1.0, 0.0]
    ]
