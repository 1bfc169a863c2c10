"""Saved adapters on a model in memory, whose own weights all of them share."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from posttrain.errors import ModelError, nearest
from posttrain.models.adapter_state import load_adapter
from posttrain.models.adapters import peft_library
from posttrain.models.finite import check_finite
from posttrain.models.language_model import LanguageModel
from posttrain.models.model_files import adapter_of, first_line
from posttrain.models.peft_kind import is_peft
from posttrain.models.tokenizer import load_tokenizer
from posttrain.models.virtual_tokens import virtual_tokens

_WEIGHTS = "adapter_model.safetensors"
_SCORE_TASKS = ("SEQ_CLS", "TOKEN_CLS")


def check_adapter(folder: str) -> None:
    """Check what can be checked of an adapter's folder without its base model.

    Raises:
        ModelError: it holds no adapters of a language model, or no weights that can be read.
    """
    config = adapter_of(folder)
    if config is None:
        inside = sorted(Path(folder).glob("*/adapter_config.json"))
        way = f"; did you mean {inside[0].parent}?" if inside else ""
        raise ModelError(f"{folder} holds no adapters (adapter_config.json){way}")
    if config.get("task_type") in _SCORE_TASKS:
        raise ModelError(
            f"{folder} holds adapters of a score model; name those of a language model"
        )
    _weight_names(folder)


def with_adapter(model: LanguageModel, folder: str) -> LanguageModel:
    """Another model: the weights of `model` below the adapters of a folder.

    The weights are the same tensors in both, so that it needs memory for the adapters alone; the
    modules are its own, and `model` computes what it did before. It is in evaluation mode, and is
    the model that loading the folder gives (`load_model`) where `model` is its base.

    Args:
        folder: of PEFT, as `LanguageModel.save` writes it. Where it holds a tokenizer, that is the
        one of the new model.
    Raises:
        ModelError: `model` has adapters of its own; the adapters or their tokenizer do not fit.
        MissingDependency: PEFT is not installed.
    """
    if is_peft(model.hf):
        raise ModelError(
            f"{folder}: the model below it has adapters of its own; merge them "
            "(`posttrain merge`) or load the model without them"
        )
    check_adapter(folder)
    shared: dict[int, Any] = {id(x): x for x in (*model.hf.parameters(), *model.hf.buffers())}
    trained = [(p, p.requires_grad) for p in model.hf.parameters()]
    try:
        hf = load_adapter(copy.deepcopy(model.hf, shared), folder, trainable=False)
    finally:
        for parameter, requires_grad in trained:  # PEFT freezes what it is put on
            parameter.requires_grad_(requires_grad)
    _check_names(hf, folder)
    check_finite(hf, folder)
    adapted = LanguageModel(hf, _tokenizer(model, folder)).eval()
    adapted.fresh_adapters = False
    adapted.check_head()
    if model.shares_trunks:
        adapted.share_trunks()
    else:
        adapted.keep_unshared(model.why_unshared or "as the model below it")
    adapted.virtual = virtual_tokens(hf)
    if adapted.virtual is not None and not adapted.shares_trunks:
        raise ModelError(
            f"{folder}: virtual tokens stand before a token forest, which this model does not run "
            f"({adapted.why_unshared})"
        )
    return adapted


def _tokenizer(model: LanguageModel, folder: str) -> Any:
    """The adapter's own tokenizer, which may have another chat template; else the model's."""
    if not (Path(folder) / "tokenizer_config.json").is_file():
        return model.tokenizer
    tokenizer = load_tokenizer(folder)
    if model.tokenizer is not None and tokenizer.get_vocab() != model.tokenizer.get_vocab():
        raise ModelError(
            f"{folder}: its tokenizer has another vocabulary ({len(tokenizer)} tokens) than that "
            f"of the model below it ({len(model.tokenizer)}); serve it with the model that it was "
            "trained on"
        )
    return tokenizer


def _weight_names(folder: str) -> set[str]:
    """Names of the tensors that a folder's adapters have."""
    file = Path(folder) / _WEIGHTS
    if not file.is_file():
        raise ModelError(f"{folder} has no {_WEIGHTS}; copy the folder again")
    try:
        with safe_open(str(file), framework="pt") as handle:
            return set(handle.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is broken ({first_line(error)}); copy it again") from error


def _check_names(hf: Any, folder: str) -> None:
    """Refuse adapters of other layers, which PEFT would leave out.

    Raises:
        ModelError: names the first tensor that has no place, or the first place without a tensor.
    """
    ours = set(peft_library().get_peft_model_state_dict(hf))
    theirs = _weight_names(folder)
    for name in sorted(theirs - ours):
        raise ModelError(
            f"the adapter {folder} does not fit its base model: {name} has no place there; "
            f"{nearest(name, sorted(ours))}"
        )
    for name in sorted(ours - theirs):
        raise ModelError(
            f"the adapter {folder} does not fit its base model: {_WEIGHTS} has no {name}"
        )
