"""On-policy replay: only right answers of the model itself are replayed."""

from __future__ import annotations

from typing import Any

import pytest

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.models.loaded import trained_weights
from posttrain.registry import retentions
from posttrain.retentions.base import Stage, source_of
from posttrain.tasks.arithmetic import arithmetic
from posttrain.tasks.sorting import sorting

OLD = arithmetic(num_steps=1, num_examples=12)
NEW = sorting(num_examples=12, num_numbers=2)


def stage(model: Any, plan: Any = None) -> Stage:
    start = trained_weights(model)
    plan = plan or pt.sft(task=NEW, batch_size=4)
    return Stage(1, "new", plan, model, (pt.sft(task=OLD),), 3, start)


def test_replayed_rows_are_right_answers_of_the_model() -> None:
    model = pt.load("embedded")
    method = retentions.get("on_policy_replay")(share=0.5, num_prompts=8)
    rows = method._rows(pt.sft(task=OLD), stage(model))
    by_prompt = {e.prompt: e for e in OLD.examples[:8]}
    assert rows and {row["prompt"] for row in rows} <= by_prompt.keys()
    assert all(OLD.score(row["completion"], by_prompt[row["prompt"]]) == 1 for row in rows)
    assert rows == method._rows(pt.sft(task=OLD), stage(model))  # a function of seed and weights
    (batch,) = source_of(method.begin(stage(model)), model, 0).batches(0)
    assert batch.num_trees == 8  # 4 of the stage and as many of the earlier one


def test_without_a_reward_everything_is_replayed() -> None:
    model = pt.load("embedded")
    method = retentions.get("on_policy_replay")(num_prompts=4, num_generations=3, min_reward=None)
    assert len(method._rows(pt.sft(task=OLD), stage(model))) == 12


def test_what_cannot_be_replayed_is_refused() -> None:
    model = pt.load("embedded")
    method = retentions.get("on_policy_replay")(num_prompts=4)
    rows = pt.sft([{"prompt": "a", "completion": "b"}])
    with pytest.raises(ConfigError):
        method.begin(Stage(1, "new", rows, model, (rows,), 0, {}))
    with pytest.raises(ConfigError):
        method.begin(stage(model, pt.grpo(NEW)))
    with pytest.raises(ConfigError):
        retentions.get("on_policy_replay")(num_prompts=0)
