"""Names of other trainers: where their values live here."""

from __future__ import annotations

import dataclasses

import pytest

from posttrain import keys, registry
from posttrain.config import Recipe
from posttrain.errors import ConfigError
from posttrain.recipe import parse_recipe
from posttrain.recipe_names import ALIASES, advice, contains, place_of, resolve


def test_names_of_other_trainers() -> None:
    recipe = parse_recipe(
        {
            "method": "sft",
            "model_name_or_path": "m",
            "dataset_name": "rows.jsonl",
            "max_length": 64,
            "output_dir": "out",
            "per_device_train_batch_size": 4,
            "lora_r": 8,
        }
    )
    assert recipe.model is not None and recipe.model.path == "m"
    assert recipe.model.lora is not None and recipe.model.lora.r == 8
    assert recipe.data is not None and recipe.data.max_length == 64
    assert (recipe.output, recipe.batch_size) == ("out", 4)
    with pytest.raises(ConfigError, match="model_name_or_path"):
        parse_recipe(
            {"method": "sft", "model": {"path": "a"}, "model_name_or_path": "b", "data": "d"}
        )


@pytest.mark.parametrize(
    ("name", "method", "place"),
    [
        ("lora_r", None, "model.lora.r"),
        ("learning_rate", None, "learning_rate"),
        ("temperature", "grpo", "sampling.temperature"),
        ("temperature", "evaluate", "evaluation.sampling.temperature"),
        ("max_length", "sft", "data.max_length"),
        ("no_such_key", "sft", "no_such_key"),
    ],
)
def test_the_place_depends_on_the_method(name: str, method: str | None, place: str) -> None:
    entry = None if method is None else registry.methods.entry(method)
    assert place_of(name, entry) == place


def test_every_place_is_a_field_of_a_recipe() -> None:
    """An alias that leads nowhere would be refused under a name that the user did not write."""
    sections = {**keys.CLASSES, "Recipe": Recipe}
    heads = {
        "model": "ModelConfig",
        "teacher": "ModelConfig",
        "data": "DataConfig",
        "sampling": "SamplingConfig",
    }
    for place in ALIASES.values():
        head, _, rest = place.partition(".")
        owner = sections[heads[head]] if rest else Recipe
        fields = {field.name for field in dataclasses.fields(owner)}
        assert (rest or head).partition(".")[0] in fields, place


def test_advice_is_for_methods_that_can_follow_it() -> None:
    assert "clip_low" in advice("epsilon", registry.methods.entry("grpo"))
    assert advice("epsilon", registry.methods.entry("sft")) == ""
    assert "model.dtype" in advice("bf16", registry.methods.entry("sft"))
    assert advice("learning_rate", registry.methods.entry("sft")) == ""


def test_names_become_places_with_values() -> None:
    raw = {"lora_r": 4, "seed": 1, "lr": 0.1}
    resolved = resolve(raw, registry.methods.entry("sft"))
    assert resolved == [("lora_r", "model.lora.r", 4), ("lr", "learning_rate", 0.1)]


def test_a_name_of_an_unread_section_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sampling\.max_tokens"):
        resolve({"max_length": 9}, registry.methods.entry("grpo"))


def test_nested_places() -> None:
    node = {"a": {"b": None}, "c": 1}
    assert contains(node, "a.b") and contains(node, "c")
    assert not contains(node, "a.c") and not contains(node, "c.d")
