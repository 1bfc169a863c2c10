"""Keys of a recipe that nothing reads: refused, with the nearest right place."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain import registry
from posttrain.config import DataConfig
from posttrain.errors import ConfigError
from posttrain.keys import Watch, keys_read
from posttrain.recipe import load_recipe, parse_recipe, recipe_as_dict, stage_recipes

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


def test_keys_of_a_stage_are_refused_too() -> None:
    stages = [{**PIPELINE["stages"][1], "rewards": ["length"]}]
    with pytest.raises(ConfigError, match="'tuned': rewards: .*'sft'"):
        parse_recipe({**PIPELINE, "stages": stages})


def test_what_no_stage_takes_is_refused() -> None:
    with pytest.raises(ConfigError, match="report_to: "):
        parse_recipe({**PIPELINE, "stages": PIPELINE["stages"][:1], "report_to": ["tensorboard"]})
    with pytest.raises(ConfigError, match="evaluation: "):
        parse_recipe(
            {**PIPELINE, "stages": PIPELINE["stages"][:1], "evaluation": {"task": "sorting"}}
        )
    assert parse_recipe({**PIPELINE, "evaluation": {"task": "sorting"}}).evaluation is not None


def test_a_stage_that_trains_nothing_inherits_no_adapters() -> None:
    raw = {**PIPELINE, "model": {"path": "m", "lora": {"r": 4}}}
    first, second = (stage.model for _, stage in stage_recipes(parse_recipe(raw)))
    assert first is not None and first.lora is None
    assert second is not None and second.lora is not None and second.lora.r == 4


def test_a_search_in_a_pipeline_has_its_own_number_of_samples() -> None:
    raw = {**PIPELINE, "evaluation": {"task": "sorting", "num_samples": 16}}
    raw["stages"] = [
        {"name": "base", "method": "evaluate"},
        {"name": "vote", "method": "evaluate", "search": "majority_vote"},
    ]
    counts = [
        stage.evaluation.num_samples
        for _, stage in stage_recipes(parse_recipe(raw))
        if stage.evaluation
    ]
    assert counts == [16, 1]


@pytest.mark.parametrize("raw", [GRPO, SFT, EVALUATE, PIPELINE], ids=lambda raw: raw["method"])
def test_a_recipe_that_is_written_down_is_read_back(raw: dict[str, Any]) -> None:
    recipe = parse_recipe(raw)
    written = recipe_as_dict(recipe)
    assert written.keys() <= keys_read(registry.methods.entry(recipe.method))
    assert parse_recipe(written) == recipe


def test_a_run_of_an_older_version_is_read(tmp_path: Any) -> None:
    """It wrote every field, at its default where the method does not read it."""
    older = """
num_train_epochs: 1.0
batch_size: 16
learning_rate: 2.0e-05
weight_decay: 0.0
adam_beta1: 0.9
adam_beta2: 0.999
adam_epsilon: 1.0e-08
warmup_steps: 0.0
min_lr_ratio: 0.0
max_grad_norm: 1.0
save_every: 0
save_total_limit: 2
eval_every: 0
seed: 0
method: evaluate
model: {path: m}
evaluation: {task: {name: sorting}, ks: []}
lr_scheduler_type: linear
"""
    (tmp_path / "recipe.yaml").write_text(older)
    assert load_recipe(tmp_path / "recipe.yaml").method == "evaluate"
    (tmp_path / "recipe.yaml").write_text(older.replace("save_every: 0", "save_every: 5"))
    with pytest.raises(ConfigError, match="save_every: .*'evaluate'"):
        load_recipe(tmp_path / "recipe.yaml")


def test_a_watched_section_is_equal_and_remembers_what_was_read() -> None:
    watch = Watch()
    data = watch.section(
        "data", DataConfig("rows.jsonl", limit=3, columns={"prompt": "q"}, max_length=7)
    )
    assert isinstance(data, DataConfig) and watch.section("other", 3) == 3
    assert watch.unread() == ["data.path", "data.limit", "data.columns", "data.max_length"]
    assert (data.path, data.limit, data.columns, data.train_on) == (
        "rows.jsonl",
        3,
        {"prompt": "q"},
        "auto",
    )
    assert watch.unread() == ["data.max_length"]
