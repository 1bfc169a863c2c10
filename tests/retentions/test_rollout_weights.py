"""CPPO: kinds of completions by hand, weighted advantages, the term of retention."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.registry import retentions
from posttrain.retentions.base import Stage, source_of
from posttrain.retentions.rollout_weights import rollout_weights
from posttrain.tasks.sorting import sorting

TASK = sorting(num_examples=8, num_numbers=2)


def test_kinds_by_hand() -> None:
    """Means are 0, deviations 1: beyond +-1/2 is high or low."""
    rewards = np.array([1.0, 1.0, -1.0, -1.0, np.nan])
    logprobs = np.array([1.0, -1.0, 1.0, -1.0, 0.0])
    logprobs[:4] /= logprobs.std() / 1.0
    learning, retention = rollout_weights(rewards, logprobs, threshold=0.5, low=0.25, high=3.0)
    assert learning.tolist() == [3.0, 3.0, 3.0, 0.25, 1.0]
    assert retention.tolist() == [3.0, 0.25, 0.25, 0.25, 1.0]
    same = rollout_weights(np.ones(3), np.ones(3), threshold=0.5, low=0.25, high=3.0)
    assert same[0].tolist() == same[1].tolist() == [1.0] * 3
    none = rollout_weights(np.full(2, np.nan), np.ones(2), threshold=0.5, low=0.25, high=3.0)
    assert none[0].tolist() == [1.0, 1.0]


def stage(model: LanguageModel, plan: Any, number: int = 1) -> Stage:
    return Stage(number, "s", plan, model, (plan,) * number, 3, {})


def test_advantages_are_weighted_and_the_rest_stays(model: LanguageModel) -> None:
    def letters(completions: list[str]) -> list[float]:
        """Distinct characters."""
        return [float(len(set(text))) for text in completions]

    plan = pt.grpo(TASK, rewards=[letters], num_generations=4, batch_size=2)
    method = retentions.get("cppo")(threshold=0.0, low=0.25, high=3.0)
    weighted = method.begin(stage(model, plan))
    assert [t.name for t in weighted.objective.terms][-1] == "knowledge_retention"
    (before,) = source_of(plan, model, 0).batches(0)
    (after,) = source_of(weighted, model, 0).batches(0)
    assert not after.idle
    old = {s.ids.tobytes(): s for t in (*before.trees, *before.idle) for s in t.sequences}
    rows = [s for t in after.trees for s in t.sequences]
    assert len(rows) == 8
    rewards = np.array([s.values["reward"] for s in rows])
    logprobs = np.array([s.streams["engine_logprobs"][s.loss_mask].mean() for s in rows])
    learning, retention = rollout_weights(rewards, logprobs, threshold=0.0, low=0.25, high=3.0)
    assert set(learning) - {1.0}
    for row, a, b in zip(rows, learning, retention, strict=True):
        plain = old[row.ids.tobytes()]
        assert row.streams["retention_weight"][row.loss_mask] == pytest.approx(b)
        np.testing.assert_allclose(row.streams["advantages"], a * plain.streams["advantages"])


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_a_stage_is_trained(model: LanguageModel, method: str) -> None:
    more: dict[str, Any] = {"num_generations": 4} if method == "grpo" else {}
    plan = getattr(pt, method)(TASK, rewards=["length"], batch_size=4, **more)
    assert retentions.get("cppo")().begin(stage(model, plan, 0)) is plan
    weighted = retentions.get("cppo")(weight=0.5).begin(stage(model, plan))
    result = pt.fit(model, weighted, steps=2)
    last = result.metrics[-1]
    assert last["cppo/retention_weight"] > 0 and np.isfinite(last["loss"])
    first = result.metrics[0] if "loss/knowledge_retention" in result.metrics[0] else last
    assert first["loss/knowledge_retention"] >= 0


def test_what_it_cannot_weigh_is_refused(model: LanguageModel) -> None:
    plan = pt.sft([{"prompt": "a", "completion": "b"}])
    with pytest.raises(ConfigError):
        retentions.get("cppo")().begin(stage(model, plan))
    for settings in ({"weight": -1.0}, {"threshold": -1.0}, {"low": 1.5}, {"high": 0.5}):
        with pytest.raises(ConfigError):
            retentions.get("cppo")(**settings)
