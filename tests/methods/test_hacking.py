"""Best-of-N by proxies on the embedded model, and what is refused before weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.evaluation.hacking import read_hacking
from posttrain.methods.hacking import scores_of
from posttrain.rewards.base import RewardSet
from posttrain.tasks.arithmetic import arithmetic
from posttrain.types import Example, Trace, TraceGroup

SUMS = arithmetic(num_steps=1, num_examples=12, split="test")


def shortness(completions) -> list[float]:
    return [-float(len(text)) for text in completions]


def test_a_proxy_of_length_is_hacked_and_the_gold_reward_is_not(tmp_path: Path) -> None:
    result = pt.hacking(
        "embedded",
        SUMS,
        proxies={"short": shortness, "gold": "task"},
        gold="task",
        num_samples=16,
        kl_weights=(1.0,),
        length_weights=(0.5,),
        output=tmp_path,
    )
    assert [c.name for c in result.curves] == ["short", "gold", "short, kl 1", "short, length 0.5"]
    by_name = {c.name: c for c in result.curves}
    assert by_name["gold"].peak == 16
    assert by_name["gold"].points[-1].gold.estimate == result.ceiling > 0.8
    assert by_name["short"].points[-1].gold.estimate < 0.2
    assert result.gains["gold"].low > 0.5
    # One sample is one sample, whatever chooses.
    assert len({round(c.points[0].gold.estimate, 9) for c in result.curves}) == 1
    assert read_hacking(tmp_path) == result


def test_scoring_leaves_the_traces_as_they_are() -> None:
    trace = Trace.of_text("abc")
    trace.rewards, trace.reward = {"other": 1.0}, 1.0
    group = TraceGroup(Example("p", id="1"), (), [trace, Trace.of_text("a")])
    group.traces[0].turns, group.traces[1].turns = [], []
    rewards = RewardSet([lambda completions: [2.0 for _ in completions]])
    assert scores_of(rewards, [group]).tolist() == [[2.0, 2.0]]
    assert trace.rewards == {"other": 1.0} and trace.reward == 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"proxies": {}},
        {"proxies": ["length"]},
        {"num_samples": 1},
        {"num_examples": 1},
        {"kl_weights": (0.0,)},
        {"length_weights": (np.inf,)},
        {"gold": "tusk"},
    ],
)
def test_wrong_calls_are_refused_before_weights(options: dict) -> None:
    call = {"proxies": {"short": shortness}, "gold": "task", **options}
    with pytest.raises(ConfigError):
        pt.hacking("no/such/model", SUMS, **call)
