"""A model that a folder or hub id names, before its weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import weights_of

import posttrain as pt
from posttrain.config import AdapterConfig, LoraConfig, ModelConfig
from posttrain.errors import ModelError
from posttrain.model_config import model_location
from posttrain.models.load import load_score_model
from posttrain.models.named import NamedModel
from posttrain.models.spec import model_spec


@pytest.fixture
def loaded(tiny_folder: Path) -> Any:
    return pt.load(tiny_folder)


def test_the_embedded_model_is_a_folder_of_the_package() -> None:
    assert (Path(model_location("embedded")) / "config.json").is_file()
    assert model_location("org/name") == "org/name"
    spec = model_spec("embedded")
    assert spec.name == "embedded" and spec.place != "embedded"


def test_a_named_model_is_read_anew_and_a_loaded_one_is_itself(
    tiny_folder: Path, loaded: Any
) -> None:
    named = model_spec(tiny_folder)
    assert named.load() is not named.load()
    assert model_spec(loaded).load() is loaded
    assert model_spec(loaded).load_frozen() is loaded


@pytest.mark.parametrize(
    ("settings", "adapters"),
    [
        ({"lora": LoraConfig(r=2)}, True),
        ({"adapter": AdapterConfig("ia3")}, True),
        ({"adapter": AdapterConfig("bitfit")}, False),
        ({}, False),
    ],
)
def test_whether_adapters_are_trained(
    tiny_folder: Path, settings: dict[str, Any], adapters: bool
) -> None:
    assert model_spec(ModelConfig(str(tiny_folder), **settings)).has_adapters == adapters


def test_virtual_tokens_take_positions(tiny_folder: Path) -> None:
    plain = model_spec(tiny_folder).context_length()
    config = ModelConfig(str(tiny_folder), adapter=AdapterConfig("prompt", num_virtual_tokens=5))
    assert plain is not None and model_spec(config).context_length() == plain - 5
    assert model_spec(model_spec(config).load()).context_length() == plain - 5


def test_a_frozen_model_has_no_gradients(tiny_folder: Path) -> None:
    model = model_spec(tiny_folder).load_frozen()
    assert not any(p.requires_grad for p in model.hf.parameters())


def test_a_critic_starts_from_the_policy_without_its_lora(tiny_folder: Path) -> None:
    named = NamedModel(ModelConfig(str(tiny_folder), lora=LoraConfig(r=2)), seed=5)
    critic = named.as_critic()
    assert critic.config.lora is None and (critic.place, critic.seed) == (named.place, 5)
    assert named.as_critic(adapters=True) is named
    memory = model_spec(named.load()).as_critic()
    assert (memory.place, memory.config.lora) == (str(tiny_folder), None)


def test_a_critic_beside_the_model_is_found(tiny_folder: Path, tmp_path: Path) -> None:
    model = pt.load(tiny_folder)
    model.save(tmp_path / "model")
    spec = model_spec(tmp_path / "model")
    assert not spec.has_critic
    critic = load_score_model(str(tiny_folder), per="token")
    critic.save(tmp_path / "model" / "critic")
    assert spec.has_critic
    assert weights_of(spec.load_critic()) == weights_of(critic)
    assert NamedModel(ModelConfig("nowhere"), critic_ahead=True).has_critic
    model.critic = critic
    assert model_spec(model).has_critic and model_spec(model).load_critic() is critic


@pytest.mark.parametrize("name", ["embeded", "embedded-tool", "Embedded"])
def test_almost_the_name_of_a_model_of_the_package(name: str) -> None:
    with pytest.raises(ModelError, match="did you mean 'embedded"):
        pt.load(name)
    assert model_location("org/embedded-2") == "org/embedded-2"
