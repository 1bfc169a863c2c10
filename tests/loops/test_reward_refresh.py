"""Rounds of labelling, a new reward model and reinforcement learning, as whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import stopped_and_resumed, told, weights

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.loops.reward_refresh import comparisons
from posttrain.types import Example, Trace, TraceGroup

TASK = {"name": "arithmetic", "num_examples": 12, "num_steps": 1}
REFRESH: dict[str, Any] = {
    "method": "reward_refresh",
    "model": "embedded",
    "task": TASK,
    "reward_model": "embedded",
    "labels": ["task"],
    "num_rounds": 2,
    "steps_per_round": 2,
    "prompts_per_round": 6,
    "num_labelled": 4,
    "reward_steps": 2,
    "num_generations": 2,
    "batch_size": 2,
    "sampling": {"max_tokens": 24},
    "learning_rate": 1e-4,
}


def test_resume_is_exact(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 3, **REFRESH)
    assert weights(whole) == weights(half) and told(whole) == told(half)
    assert (whole / "round-1" / "reward_model" / "model").is_dir()
    assert (whole / "round-2" / "rows.jsonl").is_file()
    assert len(told(whole)) == 4
    assert "rewards/reward_model/mean" in told(whole)[-1]


def test_pairs_are_of_the_best_and_the_worst() -> None:
    def group(*rewards: float | None) -> TraceGroup:
        traces = [Trace.of_text(str(i)) for i in range(len(rewards))]
        for trace, reward in zip(traces, rewards, strict=True):
            trace.reward = reward
        return TraceGroup(Example("p"), (), traces)

    pairs = comparisons([group(0.0, None, 1.0, 0.5, 1.0), group(1.0, 1.0), group(None)])
    assert pairs == [{"prompt": "p", "chosen": "2", "rejected": "0"}]


@pytest.mark.parametrize(
    "change",
    [
        {"num_rounds": 0},
        {"steps_per_round": 0},
        {"reward_steps": 0},
        {"num_labelled": 1},
        {"labels": "tusk"},
        {"num_generations": 0},
    ],
)
def test_what_cannot_work_is_refused(change: dict[str, Any]) -> None:
    names = ("method", "model", "task")
    settings = {k: v for k, v in {**REFRESH, **change}.items() if k not in names}
    with pytest.raises(ConfigError):
        pt.reward_refresh(pt.task.arithmetic(num_steps=1, num_examples=4), **settings)
