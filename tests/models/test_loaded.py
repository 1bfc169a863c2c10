"""A model in memory, and what a resume loads into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import weights_of

import posttrain as pt
from posttrain.config import LoraConfig
from posttrain.errors import CheckpointError
from posttrain.models.loaded import LoadedModel, trained_weights, weights_digest
from posttrain.models.spec import model_spec


@pytest.fixture
def loaded(tiny_folder: Path) -> Any:
    return pt.load(tiny_folder)


def test_lora_in_memory_is_known(tiny_folder: Path) -> None:
    model = pt.load(tiny_folder, lora=LoraConfig(r=2))
    assert model_spec(model).has_adapters
    assert all("lora" in name for name in trained_weights(model))


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
    # The digest and the reference are those before the checkpoint.
    assert spec.digest == begun != weights_digest(loaded)
    _, parameter = next(iter(loaded.hf.named_parameters()))
    assert torch.allclose(next(model._frozen.parameters()) * 1.5, parameter)


def test_trained_weights_are_copies(loaded: Any) -> None:
    weights = trained_weights(loaded)
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


def test_a_refused_resume_gives_back_what_was_held(tmp_path: Path, loaded: Any) -> None:
    held = weights_of(loaded)
    other = pt.load(loaded.origin.path)
    with torch.no_grad():
        next(other.hf.parameters()).add_(1.0)
    other.save(tmp_path / "saved")
    spec = model_spec(loaded)
    assert isinstance(spec, LoadedModel)
    spec.load(weights=tmp_path / "saved")
    assert weights_of(loaded) != held
    spec.give_back()
    assert weights_of(loaded) == held == weights_of(spec.model)
    spec.load(weights=tmp_path / "saved")
    spec.settle()
    spec.give_back()
    assert weights_of(loaded) != held


def test_a_checkpoint_of_another_form_is_refused(tmp_path: Path, loaded: Any) -> None:
    pt.load(loaded.origin.path, lora=LoraConfig(r=2)).save(tmp_path / "saved")
    held = weights_of(loaded)
    with pytest.raises(CheckpointError):
        model_spec(loaded).load(weights=tmp_path / "saved")
    assert weights_of(loaded) == held
