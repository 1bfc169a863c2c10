"""Bounds of the numbers that a run is given, in a recipe or in Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from posttrain.config import DataConfig, EvaluationConfig, Recipe, SamplingConfig
from posttrain.errors import ConfigError

MAX_LEARNING_RATE = 10.0
"""AdamW moves each weight by about the learning rate per step. The weights of language models are
of the order of 0.01 to 1, and the largest rates in use are those of virtual tokens (0.3, arXiv
2104.08691): a rate above this replaces every weight at the first step."""

_POSITIVE = (
    "batch_size",
    "max_tokens_per_micro_batch",
    "learning_rate",
    "adam_epsilon",
    "save_total_limit",
)
_NOT_NEGATIVE = (
    "weight_decay",
    "warmup_steps",
    "save_every",
    "save_seconds",
    "eval_every",
    "max_grad_norm",
    "num_train_epochs",
    "reward_timeout_seconds",
    "seed",
)
_BELOW_ONE = ("adam_beta1", "adam_beta2", "min_lr_ratio", "muon_momentum", "ema_decay")
_SHARES = ("max_failed_rewards", "max_prompts_dropped")


def check_numbers(recipe: Recipe) -> None:
    """Refuse numbers that no run can have.

    Raises:
        ConfigError: names the key, its value and the bound.
    """
    fields = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    check_values({**fields, **recipe.settings})


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse numbers that no run can have, among settings by their names.

    Raises:
        ConfigError: names the setting, its value and the bound.
    """
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            _check_number(name, value)
        elif type(value) is DataConfig:  # not one whose reads are watched (`keys.Watch`)
            _check_data(name, value)
        elif isinstance(value, SamplingConfig):
            _check_sampling(value)
        elif isinstance(value, EvaluationConfig):
            if min(value.num_examples, value.num_samples) < 1:
                raise ConfigError("evaluation: num_examples and num_samples must be at least 1")
            _check_sampling(value.sampling)


def _check_number(name: str, value: float) -> None:
    if name in _POSITIVE and value <= 0:
        raise ConfigError(f"{name}: {value} must be above 0")
    if name in _NOT_NEGATIVE and value < 0:
        raise ConfigError(f"{name}: {value} must not be negative")
    if name in _BELOW_ONE and not 0 <= value < 1:
        raise ConfigError(f"{name}: {value} must be at least 0 and below 1")
    if name in _SHARES and not 0 <= value <= 1:
        raise ConfigError(f"{name}: {value} is not a share; it must be from 0 to 1")
    if name == "max_steps" and value < 1:
        raise ConfigError(
            f"max_steps: {value} must be at least 1; leave it out to train num_train_epochs"
        )
    if name.endswith("learning_rate") and value > MAX_LEARNING_RATE:
        raise ConfigError(
            f"{name}: {value:g} must be at most {MAX_LEARNING_RATE:g}: AdamW moves each weight by "
            "about the learning rate per step; usual rates are from 1e-6 to 1e-2"
        )


def _check_data(where: str, data: DataConfig) -> None:
    if data.limit is not None and data.limit < 1:
        raise ConfigError(
            f"{where}.limit: {data.limit} leaves no row; leave it out to read them all"
        )
    if data.max_length is not None and data.max_length < 2:
        raise ConfigError(
            f"{where}.max_length: {data.max_length} tokens hold nothing to predict; it must be at "
            "least 2"
        )
    if not 0 <= data.max_masked <= 1:
        raise ConfigError(
            f"{where}.max_masked: {data.max_masked} is not a share; it must be from 0 to 1"
        )


def _check_sampling(sampling: SamplingConfig) -> None:
    within = 0 < sampling.top_p <= 1 and 0 <= sampling.min_p < 1
    if sampling.temperature < 0 or not within or sampling.top_k < 0:
        raise ConfigError(
            f"sampling: {sampling} is out of range: temperature >= 0, 0 < top_p <= 1, 0 <= min_p "
            "< 1, top_k >= 0"
        )
    if sampling.max_tokens is not None and sampling.max_tokens < 1:
        raise ConfigError(f"sampling.max_tokens: {sampling.max_tokens} must be at least 1")
