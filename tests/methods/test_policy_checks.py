"""Combinations of policy-gradient settings that cannot work: refused before weights load."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from policy_runs import GRPO, PPO, TRUSTED, settings

from posttrain.config import Component, TrustRegionConfig
from posttrain.errors import ConfigError
from posttrain.methods.policy_checks import check, check_numbers
from posttrain.recipe import parse_recipe
from posttrain.types import Sampling


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ({**GRPO, "advantage": "gae"}, "'gae'.*ppo"),
        (
            {**GRPO, "losses": ["clipped", "value"]},
            "'value'.*ppo",
        ),
        ({**PPO, "advantage": "leave_one_out"}, "advantage: 'leave_one_out'"),
        ({**PPO, "losses": ["clipped"]}, "losses: .*value"),
        (
            {**PPO, "losses": [{"name": "clipped", "level": "sequence"}, "value"]},
            "level: sequence_token",
        ),
        ({**GRPO, "num_generations": 1}, "num_generations: 1"),
        (
            {**GRPO, "num_generations": 1, "advantage": "opo"},
            "num_generations: 1",
        ),
        (
            {**GRPO, "num_generations": 2, "advantage": {"name": "pass_at_k", "k": 4}},
            "num_generations: 2",
        ),
        (
            {**GRPO, "num_generations": 1, "losses": ["mrt"]},
            "num_generations: 1.*loss",
        ),
        (
            {**GRPO, "num_generations": 1, "advantage": "batch_mean", "max_resamples": 1},
            "num_generations: 1.*max_resamples",
        ),
        (
            {**GRPO, "advantage": "greedy_baseline", "sampling": {"temperature": 0.0}},
            "sampling.temperature: 0",
        ),
        ({**GRPO, "advantage": "group_process"}, "'group_process'.*process_model"),
        (
            {
                **GRPO,
                "advantage": "group_process",
                "rewards": ["arithmetic_steps"],
                "credit": {"kl_weight": 0.1},
            },
            "kl_weight: advantage 'group_process'",
        ),
        (
            {**GRPO, "advantage": "gdpo", "credit": {"kl_weight": 0.1}},
            "kl_weight: advantage 'gdpo'",
        ),
        ({**GRPO, "losses": ["clipped", "weighted_entropy"]}, "credit.target_entropy"),
        ({**GRPO, "credit": {"target_entropy": 0.5}}, "credit.target_entropy"),
        ({**GRPO, "credit": {"kl_target": 6.0}}, "kl_target"),
        ({**GRPO, "credit": {"top_entropy": 0.0}}, "credit.top_entropy: 0.0"),
        ({**GRPO, "credit": {"reward_clip": [1.0]}}, r"credit.reward_clip: "),
        ({**GRPO, "credit": {"kl": 1.0}}, "'credit.kl'"),
        (
            {
                **GRPO,
                "credit": {"importance_correction": "token_mask"},
                "sampling": {"temperature": 0.7, "top_p": 0.9},
            },
            "importance_correction.*top_p",
        ),
        (
            {**GRPO, "losses": [{"name": "sapo", "level": "sequence_token"}]},
            "'sequence_token'",
        ),
        (
            {**GRPO, "losses": [{"name": "gmpo", "aggregation": "token_mean"}]},
            "'gmpo'.*aggregation",
        ),
        (
            {**GRPO, "credit": {"importance_clip_max": 0.0}},
            "importance_clip_max: 0.0",
        ),
        ({**GRPO, "credit": {"importance_clip_min": 0.5}}, "importance_clip_min: 0.5.*'none'"),
        (
            {
                **GRPO,
                "credit": {"importance_correction": "token_mask", "importance_clip_min": 3.0},
            },
            "importance_clip_min: 3.0.*importance_clip_max, 3.0",
        ),
        ({**GRPO, "credit": {"importance_normalize": True}}, "importance_normalize.*importance_c"),
        ({**GRPO, "credit": {"rejection": "token_k2", "rejection_min": -1.0}}, "rejection_min.*k1"),
        ({**GRPO, "credit": {"rejection": "token_k1", "rejection_max": 0.0}}, "rejection_max: 0.0"),
        ({**GRPO, "credit": {"rejection": "token_k1", "rejection_min": 0.1}}, "rejection_min, 0.1"),
        ({**GRPO, "credit": {"rejection": "token_k9"}}, "rejection.*token_k9"),
        (
            {
                **GRPO,
                "credit": {"rejection": "token_k1"},
                "sampling": {"temperature": 0.7, "top_p": 0.9},
            },
            "credit.rejection.*top_p",
        ),
        (
            {**GRPO, "advantage": "gdpo", "credit": {"reward_clip": [0.0, 1.0]}},
            "credit.reward_clip",
        ),
        ({**GRPO, "losses": ["bco"]}, "losses: 'bco'"),
        (
            {**GRPO, "losses": ["surrogate"], "trust_region": {"max_kl": -1.0}},
            "trust_region: max_kl -1.0",
        ),
        (
            {**TRUSTED, "model": {"path": "embedded", "dtype": "bfloat16"}},
            "trust_region.*float32",
        ),
        (
            {**TRUSTED, "model": {"path": "embedded", "adapter": "adalora"}},
            "adalora.*AdamW",
        ),
        ({**PPO, "critic_learning_rate": -1e-3}, "critic_learning_rate: -0.001"),
        ({**PPO, "num_minibatches": 3}, "num_minibatches: 3"),
        ({**GRPO, "given_steps": 4}, "losses: .*'given'"),
        (
            {**PPO, "losses": ["clipped", "value", "given_nll"]},
            "'given_nll'.*'given'",
        ),
    ],
)
def test_combinations_that_make_no_sense(raw: dict[str, Any], named: str, tmp_path: Path) -> None:
    from posttrain.runs import run_of

    with pytest.raises(ConfigError, match=named):
        run_of(
            parse_recipe({"model": "embedded", "output": str(tmp_path / "run"), **raw})
        ).prepared()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", ["num_generations", "num_iterations", "num_minibatches"])
def test_counts_are_at_least_one(field: str) -> None:
    check(settings(), Sampling())
    with pytest.raises(ConfigError, match=f"{field}: 0"):
        check(settings(**{field: 0}), Sampling())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_solves": 0}, "num_solves 0"),
        ({"num_backtracks": 0}, "num_backtracks 0"),
        ({"shrink": 1.0}, "shrink 1.0"),
        ({"damping": -0.1}, "damping -0.1"),
    ],
)
def test_bounds_of_the_trust_region(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        check(settings(trust_region=TrustRegionConfig(**changes)), Sampling())


def test_given_tokens_do_not_go_with_a_trust_region() -> None:
    with pytest.raises(ConfigError, match="trust_region"):
        check(settings(trust_region=TrustRegionConfig(), given_steps=3), Sampling())


def test_one_group_of_four_can_learn_by_the_mean_and_not_by_pass_at_8() -> None:
    rewards: Any = SimpleNamespace(names=["task"], weights={"task": 1.0})
    check_numbers(settings(), rewards)
    with pytest.raises(ConfigError, match="num_generations: 4"):
        check_numbers(settings(advantage=Component("pass_at_k", {"k": 8})), rewards)
