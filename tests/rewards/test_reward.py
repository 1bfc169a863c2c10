"""Rewards as values: lambdas, objects with a state, components, and models from outside."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from posttrain.config import Component
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, DataError
from posttrain.models.load import load_model, load_score_model
from posttrain.rewards.base import RewardSet
from posttrain.rewards.implicit import implicit_reward
from posttrain.rewards.judge import judge
from posttrain.rewards.model import process_model, reward_model
from posttrain.rewards.reward import Reward
from posttrain.types import Example, Trace, TraceGroup


def group(*texts: str) -> TraceGroup:
    traces = [Trace.of_text(text) for text in texts]
    return TraceGroup(Example("p", " 1", "1", id="e"), (1,), traces)


def short(completions: Any, *, limit: int = 2) -> list[float]:
    """1 for short texts."""
    return [float(len(c) <= limit) for c in completions]


class Counting:
    """A reward with a state."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __call__(self, completions: Any) -> list[float]:
        self.events.append("call")
        return [1.0 for _ in completions]

    def check(self) -> None:
        self.events.append("check")

    def close(self) -> None:
        self.events.append("close")


def test_names_of_lambdas_functions_and_components() -> None:
    rewards = RewardSet(
        [
            lambda completions: [1.0 for _ in completions],
            short,
            lambda completions: [2.0 for _ in completions],
            functools.partial(short, limit=0),
            Component("keyword", {"words": ["b"]}, weight=0.5),
            {"name": "keyword", "words": ["a"], "weight": 0.25},
            ("keyword", 0.125, {"words": ["c"]}),
        ]
    )
    assert rewards.names[:4] == ["lambda_1", "short", "lambda_2", "short_3"]
    assert list(rewards.weights.values()) == [1.0, 1.0, 1.0, 1.0, 0.5, 0.25, 0.125]
    rewards.self_test([Example("p", id="e")])
    groups = group("abc", "b")
    rewards.reward([groups])
    assert [r.reward for r in groups.traces] == [3.0 + 0.875, 4.0 + 0.5]


def test_an_object_with_a_state_is_checked_and_closed() -> None:
    counting = Counting()
    assert isinstance(counting, Reward) and not isinstance(short, Reward)
    rewards = RewardSet([counting])
    rewards.self_test([Example("p", id="e")])
    rewards.reward([group("a")])
    rewards.close()
    assert rewards.names == ["Counting"] and counting.events == ["check", "call", "close"]


def test_text_alone_has_no_tokens() -> None:
    trace = Trace.of_text("a", "length")
    assert not trace.has_tokens and trace.finish_reason == "length"
    with pytest.raises(DataError, match="without token ids"):
        RewardSet(["length"]).reward([group("a")])
    seen: dict[str, Any] = {}

    def everything(completions: Any, **columns: Any) -> list[float]:
        seen.update(columns)
        return [0.0 for _ in completions]

    RewardSet([everything]).reward([group("a")])
    assert "completion_ids" not in seen and "answer" in seen


def test_models_from_outside(tiny_folder: Path) -> None:
    scorer = load_score_model(tiny_folder, per="sequence")
    steps = load_score_model(tiny_folder, per="token")
    policy = load_model(tiny_folder)
    rewards = RewardSet(
        [
            Component("reward_model", {"model": scorer}),
            Component("process_model", {"model": steps}),
            Component("judge", {"engine": TorchEngine(policy), "levels": 3}),
            Component("implicit_reward", {"model": policy, "ref_model": policy}),
        ]
    )
    rewards.self_test([Example("p", id="e")])
    groups = group("a\nb", "c")
    rewards.reward([groups])
    values = groups.traces[0].rewards
    prompts, texts = ["p"], ["a\nb"]
    assert values["reward_model"] == pytest.approx(reward_model(prompts, texts, model=scorer)[0])
    assert groups.traces[0].step_rewards["process_model"] == pytest.approx(
        process_model(prompts, texts, model=steps)[0]
    )
    assert (
        values["implicit_reward"]
        == implicit_reward(prompts, texts, model=policy, ref_model=policy)[0]
        == 0.0
    )
    assert values["judge"] == pytest.approx(
        judge(prompts, texts, engine=TorchEngine(policy), levels=3)[0]
    )
    rewards.close()
    rewards.reward([groups])  # it can be used again


def test_a_set_loads_a_folder_once_and_lets_it_go(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []

    def load(path: str, **settings: Any) -> Any:
        loads.append(path)
        return load_model(path, **settings)

    monkeypatch.setattr("posttrain.rewards.judge.load_model", load)
    item = {"path": str(tiny_folder), "device": "cpu"}
    rewards = RewardSet([Component("judge", item), Component("judge_win_rate", item)])
    rewards.reward([group("a", "b")])
    rewards.reward([group("a", "b")])
    assert loads == [str(tiny_folder)]
    rewards.close()
    rewards.reward([group("a", "b")])
    assert len(loads) == 2


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("reward_model", {}, "path"),
        ("reward_model", {"model": "folder"}, "model is str"),
        ("process_model", {"path": "a", "model": 1}, "not both"),
        ("implicit_reward", {"path": "a"}, "ref_path"),
        ("judge", {"engine": 3}, "engine is int"),
        ("judge", {}, "path"),
    ],
)
def test_wrong_models_are_refused_before_weights_load(
    name: str, settings: dict[str, Any], key: str
) -> None:
    with pytest.raises(ConfigError, match=key):
        RewardSet([Component(name, settings)]).self_test([Example("p", id="e")])
