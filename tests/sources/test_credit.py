"""Credit by hand-worked numbers: where KL goes, steps, clips, corrections, and the state of
controllers.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from posttrain.config import Component, CreditConfig
from posttrain.rewards.process import arithmetic_steps
from posttrain.sources.credit import Creditor
from posttrain.types import Example, Sample, Trace, TraceGroup

TEXTS = {0: "1+1=2\n", 1: "2+2=5\n", 2: "#### 5", 3: ""}


def group(*traces: tuple[list[int], float | None]) -> TraceGroup:
    made = [
        Trace.of_sample(
            (1,), Sample(ids, [0.0] * len(ids), [0.0] * len(ids), "stop"), "", {"r": reward}, reward
        )
        for ids, reward in traces
    ]
    return TraceGroup(Example(""), (9,), made)


def creditor(
    advantage: str | Component,
    asked: tuple[str, ...] = (),
    weights: dict[str, float] | None = None,
    **config: Any,
) -> Creditor:
    item = advantage if isinstance(advantage, Component) else Component(advantage)
    return Creditor(
        item,
        CreditConfig(**config),
        asked=asked,
        reward_weights=weights or {"r": 1.0},
        token_text=lambda i: TEXTS[i],
    )


def counted(groups: list[TraceGroup]) -> Any:
    return [[np.ones(len(r.sample.ids), dtype=bool) for r in g.traces] for g in groups]


def test_kl_in_the_reward_of_groups_and_of_tokens() -> None:
    """log pi - log ref is 0.5 a token: a completion of 2 tokens loses 2 * 0.1 * 0.5, and token
    by token the same.
    """
    groups = [group(([1, 2], 1.0), ([1], 0.0))]
    measured = {
        "logprobs": [[np.array([-1.0, -1.0]), np.array([-1.0])]],
        "ref_logprobs": [[np.array([-1.5, -1.5]), np.array([-1.5])]],
    }
    c = creditor("no_baseline", kl_weight=0.1)
    assert c.measures == {"logprobs", "ref_logprobs"}
    streams = c.credit(groups, measured, None, counted(groups))
    np.testing.assert_allclose(streams["advantages"][0][0], [0.9, 0.9])
    np.testing.assert_allclose(streams["advantages"][0][1], [-0.05])
    streams = creditor("reward_to_go", kl_weight=0.1).credit(
        groups, measured, None, counted(groups)
    )
    np.testing.assert_allclose(streams["advantages"][0][0], [0.9, 0.95])
    assert groups[0].traces[0].advantage == pytest.approx(0.925)


def test_values_give_returns_and_a_missing_reward_teaches_nothing() -> None:
    groups = [group(([1, 2], 1.0), ([1], None))]
    measured = {"values": [[np.array([0.2, 0.4]), np.array([0.7])]]}
    c = creditor(Component("gae", {"lam": 1.0}), asked=("old_values", "returns"))
    streams = c.credit(groups, measured, None, counted(groups))
    np.testing.assert_allclose(streams["returns"][0][0], [1.0, 1.0])
    np.testing.assert_allclose(streams["advantages"][0][0], [0.8, 0.6])
    assert streams["advantages"][0][1] == 0 and streams["returns"][0][1] == pytest.approx(0.7)


def test_step_rewards_fall_where_steps_end() -> None:
    """A right line, a wrong line and the answer; an outcome reward beside them comes at the end."""

    class Task:
        def score(self, text: str, example: Example) -> float:
            return 1.0

    text = TEXTS[0] + TEXTS[1] + TEXTS[2]
    (numbers,) = arithmetic_steps([text], Task(), [Example("")])
    assert numbers == [1.0, 0.0, 1.0]
    trace = Trace.of_sample(
        (1,),
        Sample([0, 1, 2, 3], [0.0] * 4, [0.0] * 4, "stop"),
        text,
        {"s": 2 / 3, "r": 5.0},
        5.0,
    )
    trace.step_rewards = {"s": numbers}
    groups = [TraceGroup(Example(""), (9,), [trace])]
    c = creditor("reward_to_go", weights={"s": 0.5, "r": 1.0})
    (((found,),),) = (c.credit(groups, {}, None, counted(groups))["advantages"],)
    np.testing.assert_allclose(found, [6.0, 5.5, 5.5, 5.5])
    trace.rewards, trace.step_rewards = {"s": 2 / 3}, {"s": numbers}
    (((found,),),) = (
        creditor("group_process", weights={"s": 1.0}).credit(groups, {}, None, counted(groups))[
            "advantages"
        ],
    )
    up, down = (1 - 2 / 3) * math.sqrt(3), -2 / 3 * math.sqrt(3)
    np.testing.assert_allclose(found, [2 * up + down, up + down, up, up], rtol=1e-3, atol=1e-3)


def test_clips_corrections_and_variances() -> None:
    groups = [group(([1, 2], 9.0), ([1], 0.0))]
    measured = {
        "logprobs": [[np.log([0.4, 0.4]), np.log([0.4])]],
        "entropy": [[np.array([0.1, 0.9]), np.array([0.5])]],
    }
    engine = [[np.log([0.1, 0.4]), np.log([0.4])]]
    c = creditor(
        "no_baseline",
        asked=("reward_variance",),
        reward_clip=[-1.0, 2.0],
        importance_correction="token_truncate",
        importance_clip_max=2.0,
        top_entropy=2 / 3,
        target_entropy=0.6,
        entropy_weight=0.01,
    )
    streams = c.credit(groups, measured, engine, counted(groups))
    np.testing.assert_allclose(
        streams["advantages"][0][0], [0.0, 2.0]
    )  # 2 * 2 masked by its low entropy; 2 * 1
    np.testing.assert_allclose(streams["reward_variance"][0][1], [1.0])
    np.testing.assert_allclose(
        streams["entropy_weight"][0][0], [0.01, 0.01]
    )  # the mean, 0.5, is below the target
    assert c.entropy_weight == pytest.approx(0.015)
    np.testing.assert_allclose(
        creditor("no_baseline", importance_correction="token_mask").credit(
            groups, measured, engine, counted(groups)
        )["advantages"][0][0],
        [0.0, 9.0],
    )


def test_whitening_leaves_out_what_has_no_reward() -> None:
    """Rewards 3, 1 and none: the two are whitened among themselves, and the third teaches
    nothing.
    """
    groups = [group(([1], 3.0), ([1], 1.0), ([1], None))]
    found = creditor("no_baseline", whiten=True).credit(groups, {}, None, counted(groups))[
        "advantages"
    ][0]
    np.testing.assert_allclose(np.concatenate(found), [0.5**0.5, -(0.5**0.5), 0.0], rtol=1e-6)


def test_the_greedy_reward_is_clipped_as_the_others_are() -> None:
    groups = [group(([1], 9.0), ([1], 1.0))]
    groups[0].greedy_reward = 5.0
    found = creditor("greedy_baseline", reward_clip=[-2.0, 2.0]).credit(
        groups, {}, None, counted(groups)
    )["advantages"][0]
    np.testing.assert_allclose(np.concatenate(found), [0.0, -1.0])


def test_state_goes_through_json() -> None:
    c = creditor("moving_average", kl_weight=0.1, kl_target=1.0)
    fresh = json.loads(json.dumps(c.state()))
    groups = [group(([1], 1.0), ([1], 0.0))]
    measured = {"logprobs": [[np.array([0.0])] * 2], "ref_logprobs": [[np.array([-3.0])] * 2]}
    c.credit(groups, measured, None, counted(groups))
    saved = json.loads(json.dumps(c.state()))
    assert saved["kl_weight"] == pytest.approx(0.102) and saved["baseline"] == pytest.approx(0.2)
    c.load_state(fresh)
    assert math.isnan(c.baseline) and c.kl_weight == 0.1
    c.load_state(saved)
    assert c.state() == saved
