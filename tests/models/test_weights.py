"""Weights: drawn by seed, missing ones refused, placed on bounds of 64 bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from posttrain.errors import ModelError
from posttrain.models.load import load_model
from posttrain.models.weights import align, check_choice, resolved_dtype


def test_random_weights_follow_the_seed(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="init = random"):
        load_model(folder)
    first, same, other = (
        next(load_model(folder, init="random", seed=s).hf.parameters()) for s in (1, 1, 2)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_incomplete_weights(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(ModelError, match="weights are not in the files"):
        load_model(folder)


def test_weights_are_moved_to_bounds_of_64_bytes() -> None:
    module = torch.nn.Linear(4, 4)
    memory = torch.arange(64, dtype=torch.float32)
    offset = next(i for i in range(1, 16) if memory[i:].data_ptr() % 64)
    module.weight.data = memory[offset : offset + 16].view(4, 4)
    expected = module.weight.data.clone()
    align(module)
    assert module.weight.data_ptr() % 64 == 0 and torch.equal(module.weight.data, expected)


def test_choices_and_types(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="init is 'randm'.*random"):
        check_choice("init", "randm", ("pretrained", "random"))
    assert resolved_dtype("float16", "cpu") == torch.float16
    assert resolved_dtype("auto", "cpu") == torch.float32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolved_dtype("auto", "auto") == torch.bfloat16
