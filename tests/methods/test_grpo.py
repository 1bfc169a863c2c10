"""GRPO and its kin as whole runs on a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from policy_runs import GRPO, TASK
from support import lines, tiny_model


def test_dynamic_sampling_replaces_groups_that_tie(run_recipe: Callable[..., Path]) -> None:
    """The reward is told of all groups that were sampled, not of the ones that were picked."""
    folder = run_recipe(**GRPO, max_resamples=2)
    for row, step in zip(lines(folder / "metrics.jsonl"), (1, 2), strict=True):
        assert row["sampling/num_groups"] in (2, 4, 6)
        groups = [g for g in lines(folder / "rollouts.jsonl") if g["step"] == step]
        assert all(np.ptp([c["reward"] for c in g["completions"]]) > 0 for g in groups)
        assert row["sampling/num_groups"] - row["sampling/groups_left_out"] == len(groups) > 0


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_grpo_tells_trl_names_and_keeps_rollouts(
    run_recipe: Callable[..., Path], tiny_folder: Path, lora: bool
) -> None:
    folder = run_recipe(
        method="grpo",
        model=tiny_model(tiny_folder, {"r": 4} if lora else None),
        task=TASK,
        rewards=[
            {"name": "length", "target": 5},
            {"name": "keyword", "words": ["a"], "weight": 0.5},
        ],
        losses=[
            {"name": "clipped"},
            {"name": "kl", "weight": 0.1},
            {"name": "entropy_bonus", "weight": 0.001},
        ],
        batch_size=3,
        num_generations=4,
        max_steps=3,
        learning_rate=1e-3,
        sampling={"max_tokens": 10},
    )
    rows = lines(folder / "metrics.jsonl")
    expected = {
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "rewards/length/mean",
        "rewards/keyword/std",
        "kl",
        "entropy",
        "completions/mean_length",
        "completions/clipped_ratio",
        "clip_ratio/region_mean",
        "grad_norm",
        "learning_rate",
        "sampling/sampling_logp_difference/mean",
        "sampling/sampling_logp_difference/max",
        "num_tokens",
    }
    assert expected <= rows[-1].keys()
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and rows[-1]["kl"] > 0
    # the sampler and the trainer are one model: every step, after every update
    assert all(r["sampling/sampling_logp_difference/max"] < 1e-4 for r in rows)
    groups = lines(folder / "rollouts.jsonl")
    assert len(groups) == 9 and all(len(g["completions"]) == 4 for g in groups)
    first = groups[0]["completions"][0]
    assert first["reward"] == pytest.approx(
        first["rewards"]["length"] + 0.5 * first["rewards"]["keyword"]
    )


@pytest.mark.slow
def test_grpo_raises_its_reward(run_recipe: Callable[..., Path]) -> None:
    """From random weights, towards completions of a given length (seed 0; the first five steps
    against the last five).
    """
    folder = run_recipe(
        method="grpo",
        task=TASK,
        rewards=[{"name": "length", "target": 8}],
        batch_size=8,
        num_generations=8,
        max_steps=50,
        learning_rate=3e-3,
        sampling={"max_tokens": 24},
    )
    rewards = [r["reward"] for r in lines(folder / "metrics.jsonl")]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2
