"""What tests of policy-gradient methods share: short runs as recipes, and GRPO's settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from posttrain.config import Component, CreditConfig, Limits, SamplingConfig
from posttrain.methods.policy_settings import PolicyGradient

RECIPES = sorted((Path(__file__).parent.parent / "recipes" / "policy_gradient").glob("*.yaml"))
TASK = {"name": "arithmetic", "num_examples": 12, "num_steps": 1}
SHORT: dict[str, Any] = {
    "task": TASK,
    "rewards": [{"name": "pattern", "regex": "[a-m]"}],
    "batch_size": 2,
    "sampling": {"max_tokens": 8},
    "learning_rate": 1e-3,
    "max_steps": 2,
}
GRPO: dict[str, Any] = {"method": "grpo", "num_generations": 4, **SHORT}
TRUSTED = {**GRPO, "losses": ["surrogate"], "trust_region": {"max_kl": 0.01}}
PPO: dict[str, Any] = {"method": "ppo", **SHORT, "num_generations": 2}


def settings(**changes: Any) -> PolicyGradient:
    """GRPO's settings, changed."""
    values: dict[str, Any] = {
        "rewards": [Component("task")],
        "losses": [Component("clipped")],
        "advantage": Component("group_mean"),
        "credit": CreditConfig(),
        "sampling": SamplingConfig(),
        "num_generations": 4,
        "batch_size": 2,
        "num_iterations": 1,
        "num_minibatches": 1,
        "mask_truncated": False,
        "max_resamples": 0,
        "num_train_epochs": 1.0,
        "limits": Limits(),
    }
    return PolicyGradient(**{**values, **changes})
