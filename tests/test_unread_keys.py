"""Keys of a recipe that nothing reads: refused, with the nearest right place."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain import registry
from posttrain.errors import ConfigError
from posttrain.recipe import parse_recipe
from posttrain.unread_keys import refuse_unread

MODEL: dict[str, Any] = {"model": "m"}


GRPO: dict[str, Any] = {**MODEL, "method": "grpo", "task": "arithmetic"}


SFT: dict[str, Any] = {**MODEL, "method": "sft", "data": "rows.jsonl"}


EVALUATE: dict[str, Any] = {**MODEL, "method": "evaluate", "evaluation": {"task": "sorting"}}


PIPELINE: dict[str, Any] = {
    **MODEL,
    "method": "pipeline",
    "stages": [
        {"name": "base", "method": "evaluate", "evaluation": {"task": "sorting"}},
        {"name": "tuned", "method": "sft", "task": "arithmetic"},
    ],
}


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ({**GRPO, "eval_data": "x.jsonl"}, ["eval_data: ", "'grpo'", "distill, dpo"]),
        ({**GRPO, "data": "rows.jsonl"}, ["data: ", "'grpo'"]),
        ({**SFT, "rewards": ["length"]}, ["rewards: ", "'sft'", "grpo"]),
        ({**SFT, "num_samples": 3}, ["num_samples: ", "'sft'", "evaluation.num_samples"]),
        ({**EVALUATE, "losses": ["nll"]}, ["losses: ", "'evaluate'"]),
        ({**EVALUATE, "learning_rate": 1}, ["learning_rate: ", "'evaluate'", "sft"]),
        ({**EVALUATE, "task": "sorting"}, ["task: ", "'evaluate'", "evaluation.task"]),
        (
            {**EVALUATE, "sampling": {"temperature": 0.5}},
            ["sampling: ", "'evaluate'", "evaluation.sampling"],
        ),
        ({**EVALUATE, "seed": 1}, ["seed: ", "'evaluate'", "evaluation.seed"]),
        ({**EVALUATE, "report_to": ["wandb"]}, ["report_to: ", "'evaluate'"]),
        (
            {**EVALUATE, "model": {"path": "m", "lora": {"r": 4}}},
            ["model.lora: ", "'evaluate'"],
        ),
        ({**EVALUATE, "evaluation": {"task": "sorting", "ks": [1]}}, ["'evaluation.ks'"]),
        ({**PIPELINE, "max_steps": 3}, ["max_steps: ", "'pipeline'", "stages.tuned.max_steps"]),
        ({**PIPELINE, "learning_rate": 7e-7}, ["stages.tuned.learning_rate"]),
        ({**PIPELINE, "rewards": ["length"]}, ["rewards: ", "'pipeline'", "leave it out"]),
        (
            {**MODEL, "method": "reward_model", "data": "d", "evaluation": {"task": "sorting"}},
            ["evaluation", "'reward_model'"],
        ),
        ({**GRPO, "eval_every": 5}, ["eval_every: 5", "set evaluation, "]),
        ({**SFT, "eval_every": 5}, ["eval_every: 5", "set eval_data or evaluation, "]),
        (
            {**MODEL, "method": "distill", "teacher": {"path": "t", "lora": {}}, "task": "sorting"},
            ["teacher.lora: ", "'distill'"],
        ),
        (
            {**MODEL, "method": "label_steps", "task": "arithmetic", "max_steps": 2},
            ["max_steps: ", "'label_steps'"],
        ),
        (
            {**MODEL, "method": "self_training", "task": "arithmetic", "num_train_epochs": 2},
            ["num_train_epochs: ", "'self_training'"],
        ),
    ],
)
def test_keys_that_do_nothing_are_refused(raw: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_recipe(raw)
    message = str(refusal.value)
    assert not [name for name in named if name not in message], message


def test_a_setting_of_the_named_advantage_has_its_place() -> None:
    entry = registry.methods.entry("grpo")
    with pytest.raises(ConfigError, match=r"advantage\.scale"):
        refuse_unread({"scale": "none"}, entry)
    with pytest.raises(ConfigError) as refusal:
        refuse_unread({"scale": "none", "advantage": "leave_one_out"}, entry)
    assert "advantage.scale" not in str(refusal.value)


def test_a_setting_of_other_losses_names_them_and_the_main_loss() -> None:
    with pytest.raises(ConfigError) as refusal:
        refuse_unread({"clip_high": 0.3}, registry.methods.entry("dpo"))
    message = str(refusal.value)
    assert "'clip_high'" in message and "clipped" in message and "'dpo'" in message


def test_keys_that_the_method_reads_pass() -> None:
    entry = registry.methods.entry("sft")
    refuse_unread({"seed": 1, "data": "d", "losses": ["nll"], "batch_size": 2}, entry)
    with pytest.raises(ConfigError, match="'batch_size'"):
        refuse_unread({"batchsize": 2}, entry)
