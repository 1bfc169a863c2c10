"""Policy gradients as whole runs on a tiny model, and their named points as recipes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from policy_runs import GRPO, PPO, RECIPES, SHORT
from safetensors.torch import load_file
from support import lines, stopped_and_resumed, told

from posttrain.errors import ConfigError
from posttrain.recipe import load_recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_named_points_pass_every_check_that_needs_no_weights(path: Path, tmp_path: Path) -> None:
    from posttrain.runs import run_of

    recipe = load_recipe(path, [f"output={tmp_path / 'run'}", "task.num_examples=40"])
    facts = dict(run_of(recipe).prepared().facts)
    assert int(facts["steps"]) <= 30
    text = path.read_text()
    assert text.startswith("# ") and f"posttrain run recipes/policy_gradient/{path.name}" in text


MIXER: dict[str, Any] = {**GRPO, "losses": ["reinforce", "given_nll"], "given_steps": 3}
PTX: dict[str, Any] = {
    **PPO,
    "losses": ["clipped", "value", "given_nll"],
    "mix_task": {"name": "sorting", "num_examples": 6},
    "mix_batch_size": 2,
}


STATEFUL: dict[str, Any] = {
    **GRPO,
    "advantage": "moving_average",
    "losses": ["clipped", "weighted_entropy"],
    "credit": {"target_entropy": 9.0, "entropy_weight": 0.01, "kl_weight": 0.1, "kl_target": 0.01},
}


PPO_TWICE = {**PPO, "num_minibatches": 2, "critic_learning_rate": 1e-2}


@pytest.mark.parametrize(
    "raw", [PPO_TWICE, STATEFUL, MIXER, PTX], ids=["ppo", "state", "mixer", "ptx"]
)
def test_resume_is_exact(
    raw: dict[str, Any], run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Stopped in mid-run and gone on with: the same weights, critic and controllers, bit for
    bit.
    """

    raw = {**raw, "max_steps": 4}
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 2, **raw)
    assert told(whole) == told(half) and len(told(whole)) == 4
    for name in ["model.safetensors"] + (
        ["critic/model.safetensors"] if raw["method"] == "ppo" else []
    ):
        assert (whole / "model" / name).read_bytes() == (half / "model" / name).read_bytes(), name
    if "given_steps" in raw or "mix_task" in raw:
        return
    if raw["method"] == "ppo":
        head = load_file(half / "model" / "critic" / "model.safetensors")["score.weight"]
        assert head.any() and (half / "checkpoint-4" / "critic" / "model.safetensors").is_file()
        assert (
            told(whole)[0]["reward_kl/mean"] == pytest.approx(0, abs=1e-5)
            and told(whole)[1]["reward_kl/mean"] != 0
        )
    else:
        weights = [row["reward_kl/weight"] for row in told(whole)]
        assert (
            weights[0] == 0.1
            and weights[1] == pytest.approx(0.098)
            and told(whole)[1]["entropy_weight"] == pytest.approx(0.015)
        )


def test_trust_region_bounds_the_step(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    folder = run_recipe(
        **{**GRPO, "num_generations": 8},
        losses=["surrogate"],
        trust_region={"max_kl": 0.002, "num_solves": 4},
    )
    rows = lines(folder / "metrics.jsonl")
    assert all(
        0 < r["trust_region/kl"] <= 0.002 and r["trust_region/improvement"] > 0 for r in rows
    )
    # Conjugate gradients and the quadratic model are good enough that the bound is nearly used up.
    assert max(r["trust_region/kl"] for r in rows) > 0.0002


def test_mixer_gives_less_and_less_of_the_gold_completion(run_recipe: Callable[..., Path]) -> None:
    """Given tokens lie at the end of the prompt, are learnt, and belong to the text; after
    given_steps there are none.
    """
    from posttrain.sources import rollouts as source

    seen: list[Any] = []
    build = source.RolloutSource._trees

    def watch(self: Any) -> Any:
        trees = build(self)
        seen.append((self.groups, trees))
        return trees

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source.RolloutSource, "_trees", watch)
        folder = run_recipe(**{**MIXER, "max_steps": 4})
    shares = []
    for groups, trees in seen:
        for group, tree in zip(groups, trees, strict=True):
            num_sampled = sum(len(r.sample.ids) for r in group.traces)
            given = tree.streams["given"]
            assert (
                given.sum() == group.num_given * len(group.traces)
                and (given == 0).sum() == num_sampled
            )
            assert not tree.streams["advantages"][given > 0].any()
            assert all(
                r.text.startswith(group.example.completion[: group.num_given]) for r in group.traces
            )
        shares.append(groups[0].num_given)
    assert shares[0] > shares[1] > shares[2] > shares[3] == 0
    rows = lines(folder / "metrics.jsonl")
    assert rows[0]["loss/given_nll"] > 0 and rows[3]["loss/given_nll"] == 0
    assert rows[0]["sampling/sampling_logp_difference/max"] < 1e-4  # of sampled tokens alone


@pytest.mark.parametrize(
    "settings",
    [
        {"advantage": "greedy_baseline", "num_generations": 1},
        {
            "advantage": "gdpo",
            "rewards": [*SHORT["rewards"], {"name": "keyword", "words": ["a", "e"]}],
        },
        {"losses": [{"name": "mrt"}], "drop_duplicates": True},
        {"losses": ["clip_cov", "adaptive_entropy"], "num_minibatches": 2},
        {
            "losses": ["opsm"],
            "num_minibatches": 2,
            "credit": {"importance_correction": "sequence_mask", "top_entropy": 0.5},
        },
        {
            "advantage": "reward_to_go",
            "credit": {"kl_weight": 0.1, "whiten": True, "reward_clip": [0.0, 0.5]},
        },
    ],
    ids=["greedy", "gdpo", "mrt", "cov", "off-policy", "reinforce++"],
)
def test_settings_run(settings: dict[str, Any], run_recipe: Callable[..., Path]) -> None:
    folder = run_recipe(**{**GRPO, **settings, "max_steps": 1})
    (row,) = lines(folder / "metrics.jsonl")
    assert np.isfinite(row["loss"]) and row["grad_norm"] > 0
    if "num_minibatches" not in settings:  # at the first update sampler and trainer are one model
        assert row["sampling/sampling_logp_difference/max"] < 1e-4
    if "importance_correction" in settings.get("credit", {}):
        assert row["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-3)


def test_metrics_of_tied_groups_do_not_change_a_run(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Some groups tie: their tokens are in the means, the weights are the same to the bit."""
    raw = {**GRPO, "num_generations": 2, "batch_size": 4, "num_minibatches": 2, "seed": 1}
    measured = run_recipe(**raw, output=str(tmp_path / "measured"))
    spared = run_recipe(**raw, output=str(tmp_path / "spared"), measure_tied_groups=False)
    weights, same = (load_file(f / "model" / "model.safetensors") for f in (measured, spared))
    assert all(torch.equal(weights[k], same[k]) for k in weights)
    rows, others = told(measured), told(spared)
    assert any(0 < row["frac_reward_zero_std"] < 1 for row in rows)
    for row, other in zip(rows, others, strict=True):
        assert row["loss"] == other["loss"] and row["grad_norm"] == other["grad_norm"]
        assert "entropy" not in other and "clip_ratio/high_mean" not in other
        if row["frac_reward_zero_std"] > 0:
            assert row["entropy"] != other.get("entropy/informative_groups")
        else:
            assert row["entropy"] == pytest.approx(other["entropy/informative_groups"])


def test_a_trained_process_model_gives_credit_to_steps(
    run_recipe: Callable[..., Path], tiny_folder: Path, tmp_path: Path
) -> None:
    from posttrain.models.load import load_score_model

    model = load_score_model(tiny_folder, per="token")
    with torch.no_grad():
        model.score_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    model.save(tmp_path / "process")
    raw = {
        **GRPO,
        "advantage": "group_process",
        "max_steps": 1,
        "rewards": [{"name": "process_model", "path": str(tmp_path / "process"), "device": "cpu"}],
    }
    folder = run_recipe(**raw)
    (row,) = told(folder)
    assert 0 < row["rewards/process_model/mean"] < 1 and row["grad_norm"] > 0
    completions = [c for row in lines(folder / "rollouts.jsonl") for c in row["completions"]]
    assert sum(c["advantage"] != 0 for c in completions) > len(completions) / 2
    with pytest.raises(ConfigError, match="'group_process'.*process_model"):
        run_recipe(**{**raw, "rewards": ["task"]}, output=str(tmp_path / "other"))
