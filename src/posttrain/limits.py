"""Bounds of the numbers in a recipe."""

from __future__ import annotations

from posttrain.config import DataConfig, Recipe, SamplingConfig
from posttrain.errors import ConfigError

MAX_LEARNING_RATE = 10.0
"""AdamW moves each weight by about the learning rate per step. The weights of language models are
of the order of 0.01 to 1, and the largest rates in use are those of virtual tokens (0.3, arXiv
2104.08691): a rate above this replaces every weight at the first step."""


def check_numbers(recipe: Recipe) -> None:
    """Refuse numbers that no run can have.

    Raises:
        ConfigError: names the key, its value and the bound.
    """
    positive = (
        "batch_size",
        "max_tokens_per_micro_batch",
        "learning_rate",
        "adam_epsilon",
        "save_total_limit",
    )
    for name in positive:
        value = getattr(recipe, name)
        if value is not None and value <= 0:
            raise ConfigError(f"{name}: {value} must be above 0")
    _check_learning_rates(recipe)
    not_negative = (
        "weight_decay",
        "warmup_steps",
        "save_every",
        "save_seconds",
        "eval_every",
        "max_grad_norm",
    )
    for name in (*not_negative, "num_train_epochs", "reward_timeout_seconds"):
        if getattr(recipe, name) < 0:
            raise ConfigError(f"{name}: {getattr(recipe, name)} must not be negative")
    for name in ("adam_beta1", "adam_beta2", "min_lr_ratio"):
        if not 0 <= getattr(recipe, name) < 1:
            raise ConfigError(f"{name}: {getattr(recipe, name)} must be at least 0 and below 1")
    for name in ("max_failed_rewards", "max_prompts_dropped"):
        if not 0 <= getattr(recipe, name) <= 1:
            raise ConfigError(
                f"{name}: {getattr(recipe, name)} is not a share; it must be from 0 to 1"
            )
    if recipe.max_steps is not None and recipe.max_steps < 1:
        raise ConfigError(
            f"max_steps: {recipe.max_steps} must be at least 1; leave it out to train "
            "num_train_epochs"
        )
    others = [
        (name, value) for name, value in recipe.settings.items() if isinstance(value, DataConfig)
    ]
    for where, data in (("data", recipe.data), ("eval_data", recipe.eval_data), *others):
        if data is not None and data.limit is not None and data.limit < 1:
            raise ConfigError(
                f"{where}.limit: {data.limit} leaves no row; leave it out to read them all"
            )
        if data is not None and data.max_length is not None and data.max_length < 2:
            raise ConfigError(
                f"{where}.max_length: {data.max_length} tokens hold nothing to predict; it must "
                "be at least 2"
            )
        if data is not None and not 0 <= data.max_masked <= 1:
            raise ConfigError(
                f"{where}.max_masked: {data.max_masked} is not a share; it must be from 0 to 1"
            )
    if (
        recipe.evaluation is not None
        and min(recipe.evaluation.num_examples, recipe.evaluation.num_samples) < 1
    ):
        raise ConfigError("evaluation: num_examples and num_samples must be at least 1")
    if recipe.seed < 0:
        raise ConfigError(f"seed: {recipe.seed} must not be negative")
    sampling = [
        recipe.settings.get("sampling"),
        recipe.evaluation.sampling if recipe.evaluation else None,
    ]
    for item in (s for s in sampling if isinstance(s, SamplingConfig)):
        if (
            item.temperature < 0
            or not 0 < item.top_p <= 1
            or not 0 <= item.min_p < 1
            or item.top_k < 0
        ):
            raise ConfigError(
                f"sampling: {item} is out of range: temperature >= 0, 0 < top_p <= 1, 0 <= min_p "
                "< 1, top_k >= 0"
            )
        if item.max_tokens is not None and item.max_tokens < 1:
            raise ConfigError(f"sampling.max_tokens: {item.max_tokens} must be at least 1")


def _check_learning_rates(recipe: Recipe) -> None:
    rates = {"learning_rate": recipe.learning_rate}
    rates |= {k: v for k, v in recipe.settings.items() if k.endswith("learning_rate")}
    for name, rate in rates.items():
        if isinstance(rate, int | float) and rate > MAX_LEARNING_RATE:
            raise ConfigError(
                f"{name}: {rate:g} must be at most {MAX_LEARNING_RATE:g}: AdamW moves each weight "
                "by "
                "about the learning rate per step; usual rates are from 1e-6 to 1e-2"
            )
