"""Model folders whose files are read without weights: what is refused, and by which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ModelError
from posttrain.models.load import load_model
from posttrain.models.model_files import adapter_of, score_level


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_wrong_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        load_model(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(tmp_path / "empty")
    with pytest.raises(ModelError, match="nor a model on the hub"):
        load_model("nobody/no-such-model")
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not readable JSON"):
        load_model(folder)


def test_broken_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=r"model\.safetensors is broken"):
        load_model(folder)
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match="is broken"):
        load_model(folder)
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="which is missing"):
        load_model(folder)


def test_not_a_causal_language_model(folder: Path) -> None:
    edit_config(folder, architectures=["LlamaForSequenceClassification"])
    with pytest.raises(ModelError, match="LlamaForSequenceClassification, not a causal"):
        load_model(folder)
    edit_config(folder, architectures=["T5ForConditionalGeneration"], model_type="t5")
    with pytest.raises(ModelError, match="'t5' model, not a causal"):
        load_model(folder)


def test_an_adapter_folder_names_its_base(tmp_path: Path) -> None:
    assert adapter_of(str(tmp_path)) is None
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="base_model_name_or_path"):
        adapter_of(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("[]")
    with pytest.raises(ModelError, match="holds a list"):
        adapter_of(str(tmp_path))


def test_the_level_of_a_score_follows_from_the_architecture(folder: Path) -> None:
    with pytest.raises(ModelError, match="gives no score"):
        score_level(folder)
    changes = {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1}
    edit_config(folder, **changes, id2label={"0": "score"}, label2id={"score": 0})
    assert score_level(folder) == "sequence"
    edit_config(folder, architectures=["LlamaForTokenClassification"])
    assert score_level(folder) == "token"
