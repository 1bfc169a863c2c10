"""A model before its weights are there: named, or in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import weights_of

import posttrain as pt
from posttrain.config import AdapterConfig, LoraConfig, ModelConfig
from posttrain.errors import ConfigError
from posttrain.model_config import model_location
from posttrain.models.load import load_score_model
from posttrain.models.spec import (
    LoadedModel,
    NamedModel,
    model_spec,
    trained_weights,
    weights_digest,
)


@pytest.fixture
def loaded(tiny_folder: Path) -> Any:
    return pt.load(tiny_folder)


def test_each_kind_of_argument(tiny_folder: Path, loaded: Any) -> None:
    for model in (tiny_folder, str(tiny_folder), ModelConfig(str(tiny_folder))):
        spec = model_spec(model, seed=7)
        assert isinstance(spec, NamedModel)
        assert (spec.name, spec.place, spec.seed) == (str(tiny_folder), str(tiny_folder), 7)
        assert model_spec(spec) is spec
    memory = model_spec(loaded)
    assert isinstance(memory, LoadedModel) and memory.model is loaded
    assert model_spec(memory) is memory
    assert memory.name == str(tiny_folder)
    score = model_spec(load_score_model(str(tiny_folder), per="sequence"))
    assert isinstance(score, LoadedModel)


def test_home_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_spec("~/model").place == str(tmp_path / "model")


@pytest.mark.parametrize("model", [3, None, ["a"], torch.nn.Linear(2, 2)])
def test_what_is_no_model_is_refused_by_its_type(model: Any) -> None:
    with pytest.raises(ConfigError, match=type(model).__name__):
        model_spec(model)


def test_the_embedded_model_is_a_folder_of_the_package() -> None:
    assert (Path(model_location("embedded")) / "config.json").is_file()
    assert model_location("org/name") == "org/name"
    spec = model_spec("embedded")
    assert spec.name == "embedded" and spec.place != "embedded"


def test_named_and_loaded_say_the_same_before_training(tiny_folder: Path, loaded: Any) -> None:
    named, memory = model_spec(tiny_folder), model_spec(loaded)
    assert named.context_length() == memory.context_length()
    assert named.tokenizer.get_vocab() == memory.tokenizer.get_vocab()
    assert not named.has_adapters and not memory.has_adapters
    assert not named.has_critic and not memory.has_critic
    assert weights_digest(named.load()) == weights_digest(loaded) == memory.digest


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


def test_lora_in_memory_is_known(tiny_folder: Path) -> None:
    model = pt.load(tiny_folder, lora=LoraConfig(r=2))
    assert model_spec(model).has_adapters
    assert all("lora" in name for name in trained_weights(model))


def test_virtual_tokens_take_positions(tiny_folder: Path) -> None:
    plain = model_spec(tiny_folder).context_length()
    config = ModelConfig(str(tiny_folder), adapter=AdapterConfig("prompt", num_virtual_tokens=5))
    assert plain is not None and model_spec(config).context_length() == plain - 5
    assert model_spec(model_spec(config).load()).context_length() == plain - 5


def test_the_reference_is_the_model_as_it_is_now(loaded: Any) -> None:
    spec = model_spec(loaded)
    with torch.no_grad():
        next(loaded.hf.parameters()).add_(1.0)
    now = next(loaded.hf.parameters()).detach().clone()
    model = spec.load(reference=True)
    with torch.no_grad():
        next(model.hf.parameters()).add_(1.0)
    assert torch.equal(next(model._frozen.parameters()), now)


def test_a_load_without_reference_frees_the_one_before(loaded: Any) -> None:
    spec = model_spec(loaded)
    assert spec.load(reference=True)._frozen is not None
    assert spec.load()._frozen is None


def test_a_checkpoint_is_loaded_into_the_model_in_memory(tmp_path: Path, loaded: Any) -> None:
    start = weights_of(loaded)
    spec = model_spec(loaded)
    assert isinstance(spec, LoadedModel)
    with torch.no_grad():
        for parameter in loaded.hf.parameters():
            parameter.mul_(1.5)
    trained = weights_of(loaded)
    loaded.save(tmp_path / "saved")
    with torch.no_grad():
        for parameter in loaded.hf.parameters():
            parameter.div_(1.5)
    begun = weights_digest(loaded)
    model = spec.load(reference=True, weights=tmp_path / "saved")
    assert model is loaded and weights_of(loaded) == trained != start
    # The digest and the weights of the start are those before the checkpoint.
    assert spec.digest == begun != weights_digest(loaded)
    before = spec.start_weights(None)
    name, parameter = next(iter(loaded.hf.named_parameters()))
    assert torch.allclose(before[name] * 1.5, parameter)
    # So is the reference.
    assert torch.allclose(next(model._frozen.parameters()) * 1.5, parameter)


def test_start_weights_are_copies(loaded: Any) -> None:
    weights = model_spec(loaded).start_weights(loaded)
    name, parameter = next(iter(loaded.hf.named_parameters()))
    with torch.no_grad():
        parameter.add_(1.0)
    assert torch.allclose(weights[name] + 1.0, parameter)
    assert set(weights) == {n for n, p in loaded.hf.named_parameters() if p.requires_grad}


def test_a_digest_changes_with_any_weight_and_no_order(loaded: Any) -> None:
    before = weights_digest(loaded)
    *_, last = loaded.hf.parameters()
    with torch.no_grad():
        last.view(-1)[0] += 1e-3
    assert weights_digest(loaded) != before
    with torch.no_grad():
        last.view(-1)[0] -= 1e-3


def test_a_frozen_model_has_no_gradients(tiny_folder: Path) -> None:
    model = model_spec(tiny_folder).load_frozen()
    assert not any(p.requires_grad for p in model.hf.parameters())


def test_language_and_score_models_are_not_taken_for_each_other(
    tiny_folder: Path, loaded: Any
) -> None:
    score = load_score_model(str(tiny_folder), per="sequence")
    with pytest.raises(ConfigError, match=str(tiny_folder)):
        model_spec(score).load()
    with pytest.raises(ConfigError, match=str(tiny_folder)):
        model_spec(loaded).load_scores(per="token")
    assert model_spec(score).load_scores(per="sequence") is score


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


def test_load_passes_each_setting_on(tiny_folder: Path) -> None:
    model = pt.load(
        tiny_folder, lora=LoraConfig(r=3), dtype="bfloat16", attention="unshared", seed=1
    )
    assert next(p for p in model.hf.parameters() if not p.requires_grad).dtype == torch.bfloat16
    assert not model.shares_trunks
    assert model.hf.peft_config["default"].r == 3
    adapted = pt.load(tiny_folder, adapter="ia3")
    assert "IA3" in str(adapted.hf.peft_config["default"].peft_type)
    with pytest.raises(ConfigError, match="lora and adapter"):
        pt.load(tiny_folder, lora=LoraConfig(), adapter="ia3")


def test_fresh_weights_depend_on_the_seed(tiny_folder: Path) -> None:
    def digest(seed: int) -> str:
        return weights_of(pt.load(tiny_folder, init="random", seed=seed))

    assert digest(1) == digest(1) != digest(2)
