"""Folders for servers hold the model, with a projection of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from posttrain.engines.server_weights import is_tied, named_tensors, save_for_servers
from posttrain.models.load import load_model


def test_a_tied_model_is_saved_untied_and_is_the_same(tiny_folder: Path, tmp_path: Path) -> None:
    model = load_model(tiny_folder, dtype="float32", device="cpu")
    assert is_tied(model.pretrained)
    save_for_servers(model, tmp_path)
    again = load_model(tmp_path, dtype="float32", device="cpu")
    assert not is_tied(again.pretrained)
    ours, theirs = named_tensors(model), named_tensors(again)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(ours)
    assert all((tmp_path / file).is_file() for file in index["weight_map"].values())
    assert (tmp_path / "tokenizer.json").is_file()


def test_a_model_of_several_files_keeps_them(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_folder, dtype="float32", device="cpu")
    save = model.pretrained.save_pretrained
    monkeypatch.setattr(
        model.pretrained, "save_pretrained", lambda place: save(place, max_shard_size="20KB")
    )
    save_for_servers(model, tmp_path)
    assert len(list(tmp_path.glob("model-0*.safetensors"))) > 1
    theirs = named_tensors(load_model(tmp_path, dtype="float32", device="cpu"))
    assert all(torch.equal(t, theirs[name]) for name, t in named_tensors(model).items())
