"""A model before its weights are there: named, or in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import weights_of

import posttrain as pt
from posttrain.config import LoraConfig, ModelConfig
from posttrain.errors import ConfigError
from posttrain.models.load import load_score_model
from posttrain.models.loaded import LoadedModel, weights_digest
from posttrain.models.named import NamedModel
from posttrain.models.spec import model_spec


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


def test_named_and_loaded_say_the_same_before_training(tiny_folder: Path, loaded: Any) -> None:
    named, memory = model_spec(tiny_folder), model_spec(loaded)
    assert named.context_length() == memory.context_length()
    assert named.tokenizer.get_vocab() == memory.tokenizer.get_vocab()
    assert not named.has_adapters and not memory.has_adapters
    assert not named.has_critic and not memory.has_critic
    assert weights_digest(named.load()) == weights_digest(loaded) == memory.digest


def test_language_and_score_models_are_not_taken_for_each_other(
    tiny_folder: Path, loaded: Any
) -> None:
    score = load_score_model(str(tiny_folder), per="sequence")
    with pytest.raises(ConfigError, match=str(tiny_folder)):
        model_spec(score).load()
    with pytest.raises(ConfigError, match=str(tiny_folder)):
        model_spec(loaded).load_scores(per="token")
    assert model_spec(score).load_scores(per="sequence") is score


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
