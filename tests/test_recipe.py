from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from posttrain.config import Component, Recipe
from posttrain.errors import ConfigError
from posttrain.recipe import (
    apply_overrides,
    load_recipe,
    parse_recipe,
    recipe_as_dict,
    stage_recipes,
)

GRPO: dict[str, Any] = {"method": "grpo", "model": "m", "task": {"name": "arithmetic"}}


def test_method_defaults_and_short_forms() -> None:
    recipe = parse_recipe(GRPO)
    assert recipe.model is not None and recipe.model.path == "m"
    assert recipe.learning_rate == 1e-6
    assert recipe.losses == [Component("clipped", {}, 1.0, "sequence_mean")]
    assert recipe.settings["num_generations"] == 8
    assert recipe.settings["sampling"].temperature == 1.0


def test_round_trip_through_yaml() -> None:
    raw = {
        **GRPO,
        "losses": [{"name": "clipped", "clip_high": 0.28}, {"name": "kl", "weight": 0.04}],
        "max_steps": 7,
    }
    recipe = parse_recipe(raw)
    assert parse_recipe(yaml.safe_load(yaml.safe_dump(recipe_as_dict(recipe)))) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lerning_rate": 1}, "'lerning_rate'.*'learning_rate'"),
        ({"learning_rate": "fast"}, "learning_rate: 'fast'"),
        ({"learning_rate": -1.0}, "learning_rate: -1.0"),
        ({"batch_size": 2.5}, "batch_size: 2.5"),
        ({"batch_size": True}, "batch_size: True"),
        ({"max_steps": 0}, "max_steps: 0"),
        (
            {"model": {"path": "m", "dtyp": "float32"}},
            "'model.dtyp'.*'dtype'",
        ),
        ({"model": {"dtype": "float32"}}, "'model.path'"),
        ({"model": {"path": "m", "dtype": "fp8"}}, "model.dtype: 'fp8'"),
        ({"losses": [{"name": "cliped"}]}, "'cliped'.*'clipped'"),
        (
            {"losses": [{"name": "kl", "estimator": "k4"}]},
            "'k4'.*k1, k2, k3",
        ),
        ({"losses": "nll"}, "losses: 'nll'"),
        ({"rewards": [{"weight": 1.0}]}, "rewards.*name"),
        (
            {"gradient_accumulation_steps": 4},
            "gradient_accumulation_steps.*max_tokens_per_micro_batch",
        ),
        ({"beta": 0.04}, "beta.*{name: kl"),
        ({"sampling": {"top_p": 0.0}}, "top_p"),
        ({"method": "grp"}, "'grp'.*'grpo'"),
        ({"task": {"name": "arithmetc"}}, "'arithmetc'.*'arithmetic'"),
        ({"lr_scheduler_type": "cosin"}, "'cosine'"),
        ({"advantage": "group_men"}, "'group_men'.*'group_mean'"),
        (
            {"advantage": {"name": "group_mean", "scal": "none"}},
            "'scal'.*'scale'",
        ),
        (
            {"evaluation": {"task": "sorting", "num_samples": 0}},
            "num_samples",
        ),
        ({"seed": -1}, "seed: -1"),
        ({"method": "sft", "data": {"path": "d", "limit": 0}}, "data.limit: 0"),
        (
            {"method": "sft", "data": {"path": "d", "max_length": -5}},
            "data.max_length: -5",
        ),
        (
            {"method": "sft", "data": {"path": "d", "max_masked": 2}},
            "data.max_masked: 2.0",
        ),
    ],
)
def test_wrong_recipes_are_refused_with_a_way_out(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_recipe({**GRPO, **change})


def test_a_search_is_named_rightly() -> None:
    raw = {"method": "evaluate", "model": "m", "evaluation": {"task": "sorting"}}
    with pytest.raises(ConfigError, match="'majority_vot'.*'majority_vote'"):
        parse_recipe({**raw, "search": "majority_vot"})
    with pytest.raises(ConfigError, match="search: weight"):
        parse_recipe({**raw, "search": {"name": "majority_vote", "weight": 2}})


def test_missing_method_and_required_settings() -> None:
    with pytest.raises(ConfigError, match="'method'"):
        parse_recipe({"model": "m"})
    with pytest.raises(ConfigError, match="'grpo'.*'task'"):
        parse_recipe({"method": "grpo", "model": "m"})


def test_overrides_reach_inside() -> None:
    raw = {**GRPO, "losses": [{"name": "clipped"}, {"name": "kl", "weight": 0.1}]}
    changed = parse_recipe(
        apply_overrides(
            raw,
            [
                "seed=3",
                "model.lora.r=4",
                "losses.kl.weight=0.5",
                "task.num_steps=2",
                "learning_rate=1e-5",
            ],
        )
    )
    assert changed.seed == 3
    assert (
        changed.model is not None and changed.model.lora is not None and changed.model.lora.r == 4
    )
    assert changed.model.path == "m"
    assert changed.losses[1].weight == 0.5
    assert changed.task == Component("arithmetic", {"num_steps": 2})
    assert changed.learning_rate == 1e-5
    with pytest.raises(ConfigError, match="key=value"):
        apply_overrides(raw, ["seed"])
    with pytest.raises(ConfigError, match="'kll'.*'kl'"):
        apply_overrides(raw, ["losses.kll.weight=1"])


def test_a_teacher_in_its_short_form_takes_overrides() -> None:
    raw = {"method": "distill", "model": "m", "teacher": "t", "task": "arithmetic"}
    teacher = parse_recipe(apply_overrides(raw, ["teacher.dtype=float32"])).settings["teacher"]
    assert (teacher.path, teacher.dtype) == ("t", "float32")
    with pytest.raises(ConfigError, match="losses: .*label_smoothing"):
        parse_recipe({"method": "sft", "model": "m", "data": "d", "label_smoothing_factor": 0.1})


def test_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe"):
        load_recipe(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("method: [grpo\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_recipe(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("- grpo\n")
    with pytest.raises(ConfigError, match="holds no keys"):
        load_recipe(tmp_path / "a.yaml")


def test_stages_inherit_and_chain_models() -> None:
    raw = {
        "method": "pipeline",
        "model": "base",
        "seed": 5,
        "output": "out",
        "evaluation": {"task": "arithmetic"},
        "stages": [
            {"name": "base", "method": "evaluate"},
            {"name": "sft", "method": "sft", "task": "arithmetic"},
            {"name": "grpo", "method": "grpo", "task": "arithmetic"},
        ],
    }
    stages = dict(stage_recipes(parse_recipe(raw)))
    models = {name: s.model.path for name, s in stages.items() if s.model}
    assert models == {"base": "base", "sft": "base", "grpo": "out/sft/model"}
    assert all(s.evaluation is not None for s in stages.values())
    assert {name: s.seed for name, s in stages.items()} == {
        "base": 0,
        "sft": 5,
        "grpo": 5,
    }  # base draws by evaluation.seed
    raw["stages"][2]["learning_rat"] = 1  # type: ignore[index]
    with pytest.raises(ConfigError, match="'grpo'.*'learning_rat'"):
        parse_recipe(raw)
    raw["stages"][1]["name"] = "base"  # type: ignore[index]
    with pytest.raises(ConfigError, match="'base'"):
        parse_recipe(raw)


def test_every_shipped_recipe_parses() -> None:
    recipes = sorted((Path(__file__).parent.parent / "recipes").rglob("*.yaml"))
    assert recipes
    for path in recipes:
        assert isinstance(load_recipe(path), Recipe)


def test_refusing_a_recipe_imports_no_torch() -> None:
    code = (
        "import sys\n"
        "from posttrain.recipe import parse_recipe\n"
        "from posttrain.errors import ConfigError\n"
        "try:\n    parse_recipe({'method': 'grpo', 'task': 'arithmetic', 'model': 'm', 'losses': "
        "[{'name': 'kl', 'weight': 'x'}]})\n"
        "except ConfigError: pass\n"
        "else: raise SystemExit('accepted')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_aggregation_is_a_key_of_losses_and_a_setting_of_rewards() -> None:
    raw = {
        "method": "grpo",
        "model": "m",
        "task": "sorting",
        "losses": [{"name": "clipped", "aggregation": "token_mean"}],
    }
    recipe = parse_recipe(
        {**raw, "rewards": [{"name": "reward_model", "path": "x", "aggregation": "min"}]}
    )
    assert (
        recipe.losses[0].aggregation == "token_mean"
        and recipe.rewards[0].settings["aggregation"] == "min"
    )
    with pytest.raises(ConfigError, match="aggregation"):
        parse_recipe(
            {**raw, "rewards": [{"name": "reward_model", "path": "x", "aggregation": "token_mean"}]}
        )
    with pytest.raises(ConfigError, match="'aggregation'"):
        parse_recipe({**raw, "rewards": [{"name": "length", "target": 3, "aggregation": "min"}]})
