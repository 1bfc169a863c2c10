"""Length rewards by hand, in groups of one prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.rewards.base import RewardSet
from posttrain.rewards.brevity import adaptive_length, efficient, group_length
from posttrain.types import Example, Sample, Task, Trace, TraceGroup

EXAMPLES = [Example("p", answer="1", id="p"), Example("q", answer="1", id="q")]
TASK = Task("t", EXAMPLES, lambda text, e: float(text == e.answer), str.strip)


def called(function: Any, rows: list[tuple[int, str, int]], **settings: Any) -> list[float]:
    """rows: (example, completion, tokens)."""
    return function(
        [text for _, text, _ in rows],
        [list(range(n)) for _, _, n in rows],
        [EXAMPLES[i] for i, _, _ in rows],
        TASK,
        **settings,
    )


def test_group_length_by_hand() -> None:
    rows = [(0, "1", 10), (0, "1", 20), (0, "2", 10), (0, "2", 20), (0, "1", 15)]
    assert called(group_length, rows) == pytest.approx([0.5, -0.5, 0.0, -0.5, 0.0])
    assert called(group_length, [(0, "1", 4), (0, "2", 4)]) == [0.0, 0.0]


def test_groups_are_apart_whatever_the_order() -> None:
    rows = [(0, "1", 10), (1, "1", 100), (0, "1", 20), (1, "1", 300)]
    assert called(group_length, rows) == [0.5, 0.5, -0.5, -0.5]


def test_the_adaptive_penalty_follows_the_share_of_right_answers() -> None:
    easy = [(0, "1", 10), (0, "1", 20)]
    hard = [(1, "2", 10), (1, "2", 20)]
    assert called(adaptive_length, easy, max_length=100) == pytest.approx([-0.1, -0.2])
    assert called(adaptive_length, hard, max_length=100) == pytest.approx([-0.05, -0.1])


def test_efficient_pays_less_for_longer_right_answers() -> None:
    rows = [(0, "1", 10), (0, "1", 30), (0, "2", 5)]
    s = 1 / (1 + np.exp(1.0))  # a standard deviation below the mean
    values = called(efficient, rows, penalty=0.5)
    assert values == pytest.approx([1 - 0.5 * s, 1 - 0.5 * (1 - s), 0.0])
    assert called(efficient, [(0, "1", 7)], penalty=0.5) == pytest.approx([0.75])
    assert called(efficient, rows, penalty=0.0) == [1.0, 1.0, 0.0]
    assert called(efficient, [(0, "2", 7)]) == [0.0]


def test_a_step_calls_them_with_all_groups() -> None:
    def group(example: Example, lengths: list[int]) -> TraceGroup:
        samples = [Sample(list(range(n)), [], [], "stop") for n in lengths]
        return TraceGroup(example, (1,), [Trace.of_sample((1,), s, "1") for s in samples])

    groups = [group(EXAMPLES[0], [2, 4]), group(EXAMPLES[1], [30, 10])]
    rewards = RewardSet(["task", {"name": "group_length", "weight": 0.5}], task=TASK)
    rewards.reward(groups)
    assert [[t.reward for t in g.traces] for g in groups] == [[1.25, 0.75], [0.75, 1.25]]


@pytest.mark.parametrize(
    ("function", "settings"),
    [(adaptive_length, {"max_length": 0}), (efficient, {"penalty": 1.0})],
)
def test_wrong_settings_are_refused(function: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        called(function, [(0, "1", 1)], **settings)


def test_a_task_is_needed() -> None:
    with pytest.raises(ConfigError):
        group_length(["1"], [[1]], [EXAMPLES[0]], None)
