"""The folders from which servers load a model that is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from posttrain.models.language_model import LanguageModel

_HEAD_FILE = "model-head.safetensors"
_INDEX = "model.safetensors.index.json"
_WHOLE, _REST = "model.safetensors", "model-rest.safetensors"


def is_tied(hf: Any) -> bool:
    """Whether the vocabulary projection of a Hugging Face model is its embedding matrix."""
    head = hf.get_output_embeddings()
    return head is not None and head.weight is hf.get_input_embeddings().weight


def save_for_servers(model: LanguageModel, folder: Path) -> None:
    """Write weights, config and tokenizer as a Hugging Face folder with a projection of its own.

    vLLM 0.32 takes new embeddings over and leaves a projection that is tied to them as it was. So
    the folder of a tied model holds the matrix twice, and says that it is not tied.

    Args:
        folder: exists, and is empty.
    """
    hf = model.pretrained
    hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    if is_tied(hf):
        _untie(hf, folder)


def _untie(hf: Any, folder: Path) -> None:
    head = hf.get_output_embeddings()
    module = next(name for name, part in hf.named_modules() if part is head)
    name, weight = f"{module}.weight", head.weight.detach().cpu().contiguous().clone()
    save_file({name: weight}, folder / _HEAD_FILE, metadata={"format": "pt"})
    index = _index_of(folder)
    index["weight_map"][name] = _HEAD_FILE
    index["metadata"]["total_size"] += weight.numel() * weight.element_size()
    (folder / _INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    place = folder / "config.json"
    config = json.loads(place.read_text(encoding="utf-8"))
    for section in (config, config.get("text_config")):
        if isinstance(section, dict):
            section["tie_word_embeddings"] = False
    place.write_text(json.dumps(config, indent=1), encoding="utf-8")


def _index_of(folder: Path) -> dict[str, Any]:
    """Which file holds which tensor; a model of one file becomes one of several."""
    if (folder / _INDEX).is_file():
        index: dict[str, Any] = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        index.setdefault("metadata", {}).setdefault("total_size", 0)
        return index
    # Readers prefer a file of this name to an index.
    rest = (folder / _WHOLE).rename(folder / _REST)
    with safe_open(rest, framework="pt") as tensors:
        names = list(tensors.keys())
    size = rest.stat().st_size
    return {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(names, _REST)}


def named_tensors(model: LanguageModel) -> dict[str, torch.Tensor]:
    """The tensors of a model by their names in a Hugging Face folder, with a projection in any
    case.
    """
    hf = model.pretrained
    tensors = {name: parameter.detach() for name, parameter in hf.named_parameters()}
    if is_tied(hf):
        head = hf.get_output_embeddings()
        module = next(name for name, part in hf.named_modules() if part is head)
        tensors[f"{module}.weight"] = head.weight.detach()
    return tensors
