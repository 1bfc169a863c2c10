"""PPO and its kin: the critic, and what it learns with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from policy_runs import PPO, RECIPES
from safetensors.torch import load_file
from support import lines

from posttrain.errors import ConfigError, ModelError
from posttrain.recipe import load_recipe, parse_recipe, recipe_as_dict


def test_a_critic_has_no_virtual_tokens(tmp_path: Path, tiny_folder: Path) -> None:
    from posttrain.runs import run_of

    prompted = {"path": str(tiny_folder), "adapter": {"kind": "prompt", "num_virtual_tokens": 2}}
    raw = {**PPO, "output": str(tmp_path / "run")}
    for critic in ({}, {"critic": prompted}):
        with pytest.raises(ModelError, match="'prompt'"):
            run_of(
                parse_recipe({**raw, "model": str(tiny_folder) if critic else prompted, **critic})
            ).prepared()


def test_a_critic_of_another_family_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    from posttrain.runs import run_of

    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    file = other / "tokenizer.json"
    file.write_text(file.read_text().replace('"A":', '"\u00c3\u0084":'))
    raw = {**PPO, "model": str(tiny_folder), "critic": str(other), "output": str(tmp_path / "run")}
    with pytest.raises(ConfigError, match="critic: .*2 tokens"):
        run_of(parse_recipe(raw)).prepared()


def test_ppo_with_one_update_is_a2c(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """At the first update ratio and value are the old ones, so that clipping has no part in the
    gradient.
    """
    shared = {
        **PPO,
        "num_iterations": 1,
        "max_steps": 1,
        "adam_epsilon": 1.0,
        "learning_rate": 0.1,
        "max_grad_norm": 0.0,
    }
    losses = {
        "ppo": [
            {"name": "clipped", "aggregation": "token_mean"},
            {"name": "value", "aggregation": "token_mean"},
        ],
        "a2c": [
            {"name": "reinforce", "aggregation": "token_mean"},
            {"name": "value", "clip": None, "aggregation": "token_mean"},
        ],
    }
    folders = {
        name: run_recipe(**shared, losses=some, output=str(tmp_path / name))
        for name, some in losses.items()
    }
    for part in ("model.safetensors", "critic/model.safetensors"):
        one, two = (load_file(f / "model" / part) for f in folders.values())
        for key, value in one.items():
            torch.testing.assert_close(value, two[key], rtol=0, atol=1e-6)
    norms = [lines(f / "metrics.jsonl")[0]["grad_norm"] for f in folders.values()]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4) and norms[0] > 0


@pytest.mark.slow
def test_ppo_raises_its_reward(run_recipe: Callable[..., Path]) -> None:
    """The embedded model on two-step arithmetic (seed 0; eight steps, the first two against the
    last two).
    """
    path = next(p for p in RECIPES if p.stem == "ppo")
    raw = {
        k: v for k, v in recipe_as_dict(load_recipe(path, ["max_steps=8"])).items() if k != "output"
    }
    rewards = [r["reward"] for r in lines(run_recipe(**raw) / "metrics.jsonl")]
    assert sum(rewards[-2:]) / 2 > sum(rewards[:2]) / 2 + 0.2
