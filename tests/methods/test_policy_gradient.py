"""Policy gradients as whole runs on a tiny model, their named points as recipes, and
combinations that make no sense.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import lines, stopped_and_resumed, told

from posttrain.errors import ConfigError, ModelError
from posttrain.recipe import load_recipe, parse_recipe, recipe_as_dict

RECIPES = sorted(
    (Path(__file__).parent.parent.parent / "recipes" / "policy_gradient").glob("*.yaml")
)
TASK = {"name": "arithmetic", "num_examples": 12, "num_steps": 1}
SHORT: dict[str, Any] = {
    "task": TASK,
    "rewards": [{"name": "pattern", "regex": "[a-m]"}],
    "batch_size": 2,
    "sampling": {"max_tokens": 8},
    "learning_rate": 1e-3,
    "max_steps": 2,
}
GRPO = {"method": "grpo", "num_generations": 4, **SHORT}
TRUSTED = {**GRPO, "losses": ["surrogate"], "trust_region": {"max_kl": 0.01}}
PPO: dict[str, Any] = {"method": "ppo", **SHORT, "num_generations": 2}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_named_points_pass_every_check_that_needs_no_weights(path: Path, tmp_path: Path) -> None:
    from posttrain.runs import run_of

    recipe = load_recipe(path, [f"output={tmp_path / 'run'}", "task.num_examples=40"])
    facts = dict(run_of(recipe).prepared().facts)
    assert int(facts["steps"]) <= 30
    text = path.read_text()
    assert text.startswith("# ") and f"posttrain run recipes/policy_gradient/{path.name}" in text


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({**GRPO, "advantage": "gae"}, "'gae' needs a critic; use method ppo"),
        (
            {**GRPO, "losses": ["clipped", "value"]},
            "'value' trains a critic, which this method has not",
        ),
        ({**PPO, "advantage": "leave_one_out"}, "makes no use of the critic"),
        ({**PPO, "losses": ["clipped"]}, "nothing trains the critic"),
        (
            {**PPO, "losses": [{"name": "clipped", "level": "sequence"}, "value"]},
            "use level: sequence_token",
        ),
        ({**GRPO, "num_generations": 1}, "num_generations: 1 gives no group to compare with"),
        (
            {**GRPO, "num_generations": 1, "advantage": "opo"},
            "num_generations: 1 gives no group to compare with",
        ),
        (
            {**GRPO, "num_generations": 2, "advantage": {"name": "pass_at_k", "k": 4}},
            "num_generations: 2 is too few",
        ),
        (
            {**GRPO, "num_generations": 1, "losses": ["mrt"]},
            "1 gives no group .* a loss that compares",
        ),
        (
            {**GRPO, "num_generations": 1, "advantage": "batch_mean", "max_resamples": 1},
            "1 gives no group .* max_resamples",
        ),
        (
            {**GRPO, "advantage": "greedy_baseline", "sampling": {"temperature": 0.0}},
            "writes the same completion every time",
        ),
        ({**GRPO, "advantage": "group_process"}, "'group_process' needs a reward per step"),
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
        ({**GRPO, "losses": ["clipped", "weighted_entropy"]}, "belong together"),
        ({**GRPO, "credit": {"target_entropy": 0.5}}, "belong together"),
        ({**GRPO, "credit": {"kl_target": 6.0}}, "with a kl_weight to start from"),
        ({**GRPO, "credit": {"top_entropy": 0.0}}, "the share of tokens that learn"),
        ({**GRPO, "credit": {"reward_clip": [1.0]}}, r"must be \[low, high\]"),
        ({**GRPO, "credit": {"kl": 1.0}}, "unknown key 'credit.kl'"),
        (
            {
                **GRPO,
                "credit": {"importance_correction": "token_mask"},
                "sampling": {"temperature": 0.7, "top_p": 0.9},
            },
            "leave out top_p, top_k and min_p",
        ),
        (
            {**GRPO, "losses": [{"name": "sapo", "level": "sequence_token"}]},
            "'sequence_token' is not a choice",
        ),
        (
            {**GRPO, "losses": [{"name": "gmpo", "aggregation": "token_mean"}]},
            "one value a sequence",
        ),
        (
            {**GRPO, "credit": {"importance_clip_max": 0.0}},
            "importance_clip_max: 0.0 must be above 0",
        ),
        (
            {**GRPO, "advantage": "gdpo", "credit": {"reward_clip": [0.0, 1.0]}},
            "reward of a whole completion",
        ),
        ({**GRPO, "losses": ["bco"]}, "needs .* which this method's data do not carry"),
        (
            {**GRPO, "losses": ["surrogate"], "trust_region": {"max_kl": -1.0}},
            "max_kl -1.0 must be above 0",
        ),
        (
            {**TRUSTED, "model": {"path": "embedded", "dtype": "bfloat16"}},
            "trust_region needs weights in float32",
        ),
        (
            {**TRUSTED, "model": {"path": "embedded", "adapter": "adalora"}},
            "adalora chooses its ranks by the steps of AdamW",
        ),
        ({**PPO, "critic_learning_rate": -1e-3}, "critic_learning_rate: -0.001 must be above 0"),
        ({**PPO, "num_minibatches": 3}, "num_minibatches: 3 is more than the 2 prompts"),
        ({**GRPO, "given_steps": 4}, "no term learns the rows marked 'given'"),
        (
            {**PPO, "losses": ["clipped", "value", "given_nll"]},
            "'given_nll' is averaged on 'given', which marks no rows",
        ),
    ],
)
def test_combinations_that_make_no_sense(raw: dict[str, Any], message: str, tmp_path: Path) -> None:
    from posttrain.runs import run_of

    with pytest.raises(ConfigError, match=message):
        run_of(
            parse_recipe({"model": "embedded", "output": str(tmp_path / "run"), **raw})
        ).prepared()
    assert not (tmp_path / "run").exists()


MIXER: dict[str, Any] = {**GRPO, "losses": ["reinforce", "given_nll"], "given_steps": 3}
PTX: dict[str, Any] = {
    **PPO,
    "losses": ["clipped", "value", "given_nll"],
    "mix_task": {"name": "sorting", "num_examples": 6},
    "mix_batch_size": 2,
}


def test_a_critic_has_no_virtual_tokens(tmp_path: Path, tiny_folder: Path) -> None:
    from posttrain.runs import run_of

    prompted = {"path": str(tiny_folder), "adapter": {"kind": "prompt", "num_virtual_tokens": 2}}
    raw = {**PPO, "output": str(tmp_path / "run")}
    for critic in ({}, {"critic": prompted}):
        with pytest.raises(ModelError, match="'prompt' puts tokens before a language model's"):
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
    with pytest.raises(ConfigError, match="critic: .* has another tokenizer .*2 tokens differ"):
        run_of(parse_recipe(raw)).prepared()


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


def test_conjugate_gradient_solves() -> None:
    from posttrain.training.trust_region import conjugate_gradient

    draw = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=draw, dtype=torch.float64)
    matrix, b = root @ root.T + torch.eye(6), torch.randn(6, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(
        conjugate_gradient(lambda v: matrix @ v, b, 20), torch.linalg.solve(matrix, b)
    )


def test_dynamic_sampling_replaces_groups_that_tie(run_recipe: Callable[..., Path]) -> None:
    """The reward is told of all groups that were sampled, not of the ones that were picked."""
    folder = run_recipe(**GRPO, max_resamples=2)
    for row, step in zip(lines(folder / "metrics.jsonl"), (1, 2), strict=True):
        assert row["sampling/num_groups"] in (2, 4, 6)
        groups = [g for g in lines(folder / "rollouts.jsonl") if g["step"] == step]
        assert all(np.ptp([c["reward"] for c in g["completions"]]) > 0 for g in groups)
        assert row["sampling/num_groups"] - row["sampling/groups_left_out"] == len(groups) > 0


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
        model.score_head.weight.normal_(generator=torch.Generator().manual_seed(0))  # type: ignore[operator]
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
    with pytest.raises(ConfigError, match="'group_process' needs a reward per step.*process_model"):
        run_recipe(**{**raw, "rewards": ["task"]}, output=str(tmp_path / "other"))
