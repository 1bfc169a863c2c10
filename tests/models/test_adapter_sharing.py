"""Adapters on a model in memory: its weights are shared, and it computes what it did before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_folders import adapter_folder
from safetensors.torch import load_file, save_file

from posttrain.config import AdapterConfig, LoraConfig
from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.errors import ModelError
from posttrain.models.adapter_sharing import check_adapter, with_adapter
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_model

pytest.importorskip("peft", reason="adapters need the extra peft")

FILE = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tiny_folder: Path) -> LanguageModel:
    return load_model(tiny_folder)


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapter_folder(tiny_folder, tmp_path_factory.mktemp("adapters") / "lora", seed=1)


def logprobs(model: LanguageModel) -> torch.Tensor:
    ids, mask = torch.arange(5, 30).numpy(), torch.ones(25, dtype=torch.bool).numpy()
    mask[0] = False
    with torch.no_grad():
        return model.forward(Forest.pack([Tree.build([TokenSequence(ids, mask)])]))["logprobs"]


@pytest.mark.parametrize(
    "settings",
    [
        LoraConfig(r=3),
        LoraConfig(r=2, use_dora=True),
        LoraConfig(r=2, modules_to_save=["lm_head"]),
        AdapterConfig(kind="ia3"),
        AdapterConfig(kind="prefix", num_virtual_tokens=3),
        AdapterConfig(kind="prompt", num_virtual_tokens=3),
    ],
    ids=["lora", "dora", "modules_to_save", "ia3", "prefix", "prompt"],
)
def test_an_adapter_is_what_loading_its_folder_gives(
    tiny_folder: Path, base: LanguageModel, settings: Any, tmp_path: Path
) -> None:
    place = adapter_folder(tiny_folder, tmp_path / "adapter", settings)
    before = logprobs(base)
    adapted, alone = with_adapter(base, str(place)), load_model(place)
    assert torch.equal(logprobs(adapted), logprobs(alone))
    assert not torch.allclose(logprobs(adapted), before, atol=1e-3)
    assert torch.equal(logprobs(base), before)  # bit by bit, by the same code as before
    assert adapted.num_virtual_tokens == alone.num_virtual_tokens


def test_the_weights_of_the_base_are_shared_and_stay_trainable(
    tiny_folder: Path, folder: Path
) -> None:
    base = load_model(tiny_folder)
    adapted = with_adapter(base, str(folder))
    theirs = {p.data_ptr() for p in adapted.hf.parameters()}
    assert {p.data_ptr() for p in base.hf.parameters()} <= theirs
    assert all(p.requires_grad for p in base.hf.parameters())
    assert not hasattr(base.hf, "peft_config")
    with torch.no_grad():
        base.hf.get_input_embeddings().weight.mul_(1.5)
    assert torch.equal(
        adapted.pretrained.get_input_embeddings().weight, base.hf.get_input_embeddings().weight
    )


def test_a_template_of_its_own_comes_with_the_adapter(
    tiny_folder: Path, base: LanguageModel, folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "adapter"
    shutil.copytree(folder, place)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_folder / name, place)
    (place / "chat_template.jinja").write_text("{{ messages[0].content }}!")
    assert with_adapter(base, str(place)).tokenizer.chat_template.endswith("!")
    for file in place.glob("*token*"):
        file.unlink()
    assert with_adapter(base, str(place)).tokenizer is base.tokenizer


def test_folders_without_adapters_are_refused_before_weights_are_read(
    tiny_folder: Path, folder: Path, tmp_path: Path
) -> None:
    for place in (tiny_folder, tmp_path / "nowhere"):
        with pytest.raises(ModelError, match="adapter_config"):
            check_adapter(str(place))
    with pytest.raises(ModelError, match=folder.name):  # the folder above: names the one meant
        check_adapter(str(folder.parent))
    for name, content in ((FILE, None), (FILE, b"no weights"), ("adapter_config.json", b"{")):
        place = tmp_path / "broken"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folder, place)
        (place / name).unlink()
        if content is not None:
            (place / name).write_bytes(content)
        with pytest.raises(ModelError, match=name):
            check_adapter(str(place))
    scores = tmp_path / "scores"
    shutil.copytree(folder, scores)
    config = json.loads((scores / "adapter_config.json").read_text())
    (scores / "adapter_config.json").write_text(json.dumps(config | {"task_type": "SEQ_CLS"}))
    with pytest.raises(ModelError, match="score"):
        check_adapter(str(scores))


@pytest.mark.parametrize("change", ["rank", "shape", "missing", "foreign", "nan"])
def test_adapters_that_do_not_fit_are_refused(
    base: LanguageModel, folder: Path, tmp_path: Path, change: str
) -> None:
    place = tmp_path / "adapter"
    shutil.copytree(folder, place)
    config = json.loads((place / "adapter_config.json").read_text())
    tensors = load_file(place / FILE)
    first = sorted(tensors)[0]
    if change == "rank":
        config["r"] += 1
    elif change == "shape":
        tensors[first] = torch.zeros(tensors[first].shape[0], tensors[first].shape[1] + 1)
    elif change == "missing":
        del tensors[first]
    elif change == "foreign":
        tensors[first.replace("layers.0", "layers.77")] = tensors.pop(first)
    else:
        tensors[first][0, 0] = torch.nan
    (place / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, place / FILE)
    before = logprobs(base)
    with pytest.raises(ModelError):
        with_adapter(base, str(place))
    assert torch.equal(logprobs(base), before)
    assert all(p.requires_grad for p in base.hf.parameters())


def test_a_base_with_adapters_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="of its own"):
        with_adapter(load_model(folder), str(folder))


def test_another_vocabulary_is_refused(
    base: LanguageModel, folder: Path, other_tokenizer: Path, tmp_path: Path
) -> None:
    place = tmp_path / "adapter"
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("*token*"))
    for file in other_tokenizer.glob("*token*"):
        shutil.copy(file, place)
    with pytest.raises(ModelError, match="vocabulary"):
        with_adapter(base, str(place))
