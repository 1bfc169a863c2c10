"""Adapters on disk, and what training needs beside the library's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.config import AdapterConfig, LoraConfig
from posttrain.errors import ModelError
from posttrain.models.adapter_state import STATE_FILE, load_adapter
from posttrain.models.load import load_model

from .conftest import tiny_hf


def saved(folder: Path, place: Path, settings: Any) -> Any:
    """A model with adapters that have moved, written to a folder."""
    name = "lora" if isinstance(settings, LoraConfig) else "adapter"
    model = load_model(folder, dtype="float32", **{name: settings})
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))
    if settings == ADALORA:
        allocator = model.hf.base_model.rankallocator
        allocator.ipt = {"a": torch.tensor([0.5])}
        allocator.exp_avg_ipt = {"a": torch.tensor([0.25])}
        allocator.exp_avg_unc = {"b": torch.tensor([2.0])}
    model.save(place)
    return model


ADALORA = AdapterConfig("adalora", r=2)


@pytest.mark.parametrize(
    ("settings", "has_state"),
    [
        (LoraConfig(r=2), False),
        (ADALORA, True),
        (AdapterConfig("prompt", num_virtual_tokens=3), True),
        (AdapterConfig("p_tuning", num_virtual_tokens=3, encoder_hidden_size=4), True),
    ],
    ids=["lora", "adalora", "prompt", "p_tuning"],
)
def test_training_goes_on_from_the_same_numbers(
    settings: Any, has_state: bool, folder: Path, tmp_path: Path
) -> None:
    model = saved(folder, tmp_path / "out", settings)
    assert (tmp_path / "out" / STATE_FILE).is_file() == has_state
    again = load_adapter(tiny_hf("Llama", torch.float32), str(tmp_path / "out"))
    trained = {n: p for n, p in model.hf.named_parameters() if p.requires_grad}
    loaded = {n: p for n, p in again.named_parameters() if p.requires_grad}
    assert trained.keys() == loaded.keys()
    assert all(torch.equal(p, loaded[n]) for n, p in trained.items())


def test_the_importance_of_ranks_comes_back(folder: Path, tmp_path: Path) -> None:
    saved(folder, tmp_path / "out", ADALORA)
    again = load_adapter(tiny_hf("Llama", torch.float32), str(tmp_path / "out"))
    allocator = again.base_model.rankallocator
    assert allocator.ipt["a"].tolist() == [0.5] and allocator.exp_avg_ipt["a"].tolist() == [0.25]
    assert allocator.exp_avg_unc["b"].tolist() == [2.0]


def test_adapters_that_are_not_trained_require_no_gradient(folder: Path, tmp_path: Path) -> None:
    saved(folder, tmp_path / "out", LoraConfig(r=2))
    again = load_adapter(tiny_hf("Llama", torch.float32), str(tmp_path / "out"), trainable=False)
    assert not any(p.requires_grad for p in again.parameters())


def test_the_config_is_written_in_order(folder: Path, tmp_path: Path) -> None:
    settings = LoraConfig(r=2, target_modules=["v_proj", "q_proj", "down_proj"])
    saved(folder, tmp_path / "out", settings)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["down_proj", "q_proj", "v_proj"]
    assert list(config) == sorted(config)


def test_adapters_of_another_model_are_refused(folder: Path, tmp_path: Path) -> None:
    saved(folder, tmp_path / "out", LoraConfig(r=2))
    with pytest.raises(ModelError, match=str(tmp_path / "out")):
        load_adapter(tiny_hf("Llama", torch.float32, hidden_size=64), str(tmp_path / "out"))
    with pytest.raises(ModelError, match="absent"):
        load_adapter(tiny_hf("Llama", torch.float32), str(tmp_path / "absent"))
