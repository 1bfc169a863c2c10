"""Distances of rewards on rollouts and rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.methods.reward_distance import reward_distance

ROWS = [
    {"prompt": "2+2=", "answer": "4", "id": "a", "completions": ["4", "it is 4", "5"]},
    {"prompt": "1+1=", "answer": "2", "id": "b", "completions": ["2", "3", "two"]},
]


def test_rewards_are_called_on_rows(tmp_path: Path) -> None:
    def negative(completions: list[str], answer: list[str]) -> list[float]:
        return [-float(a in c) for c, a in zip(completions, answer)]

    output = tmp_path / "distance.json"
    rewards: list[Any] = ["exact", negative, {"name": "keyword", "words": ["it"]}]
    result = reward_distance(ROWS, rewards=rewards, output=output)
    assert (result.pairs[0].first, result.pairs[0].second) == ("exact", "negative")
    assert result.pairs[0].distance == pytest.approx(1)
    assert json.loads(output.read_text())["num_completions"] == 6


def test_recorded_rewards_are_read_and_failed_ones_left_out(tmp_path: Path) -> None:
    def held(text: str, **rewards: float | None) -> dict[str, Any]:
        return {"text": text, "rewards": rewards}

    line = {
        "step": 1,
        **ROWS[0],
        "completions": [held("4", a=1, b=2), held("5", a=0, b=0), held("6", a=3, b=None)],
    }
    (tmp_path / "rollouts.jsonl").write_text(json.dumps(line) + "\n")
    result = reward_distance(tmp_path, rewards=["exact"])
    assert {p.first for p in result.pairs} | {p.second for p in result.pairs} == {"a", "b", "exact"}
    assert result.num_completions == 2
    assert all(p.distance == pytest.approx(0, abs=1e-7) for p in result.pairs)


def test_the_task_is_asked_about_its_own_examples() -> None:
    task = [{"prompt": "2+2=", "answer": "4"}, {"prompt": "1+1=", "answer": "2"}]
    result = reward_distance(ROWS, rewards=["task", "exact"], task=task)
    assert result.pairs[0].distance == pytest.approx(0, abs=1e-7)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError):
        reward_distance(ROWS, rewards=["exact"])
    with pytest.raises(ConfigError):
        reward_distance(ROWS)
    with pytest.raises(DataError):
        reward_distance([{"prompt": "a", "completion": "b"}], rewards=["exact", "repetition"])
