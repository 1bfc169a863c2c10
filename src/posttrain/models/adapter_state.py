"""Adapters on disk: PEFT's own files, and what training needs to go on beside them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from posttrain.errors import ModelError
from posttrain.models.adapters import peft_library, with_adapters
from posttrain.models.curlora import frozen_parts, make_cur
from posttrain.models.model_files import read_json
from posttrain.models.peft_kind import VIRTUAL_KINDS, adapter_kind, kind_of_config

STATE_FILE = "adapter_state.safetensors"
"""Beside PEFT's own files: what training needs to go on and the library does not save."""

# What AdaLoRA has learnt about the importance of its ranks.
_TABLES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def load_adapter(model: Any, folder: str, *, trainable: bool = True) -> Any:
    """The model with the adapters of a PEFT folder, as their training left them if the folder
    holds that state.

    Raises:
        MissingDependency: PEFT is not installed. ModelError: the adapters do not fit.
    """
    try:
        config = peft_library().PeftConfig.from_pretrained(folder)
        if trainable and (Path(folder) / STATE_FILE).is_file():
            return _resumed(model, config, folder)
        return _loaded(model, config, folder, trainable)
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        raise ModelError(f"the adapter {folder} does not fit its base model: {error}") from error


def _loaded(model: Any, config: Any, folder: str, trainable: bool) -> Any:
    # The library does not go on training virtual tokens that it has loaded.
    trainable = trainable and kind_of_config(config) not in VIRTUAL_KINDS
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(PiSSA|OLoRA|initial|modifies).*")
        return peft_library().PeftModel.from_pretrained(model, folder, is_trainable=trainable)


def _resumed(model: Any, config: Any, folder: str) -> Any:
    config.inference_mode = False
    # Pruned ranks may come back, so that the matrices have to be whole; and adapters that are
    # loaded need no text to begin with.
    ranks: Any = None if kind_of_config(config) == "ADALORA" else {}
    fresh = {"rank_pattern": ranks, "prompt_tuning_init": "RANDOM"}
    saved = {name: getattr(config, name) for name in fresh if hasattr(config, name)}
    for name in saved:
        setattr(config, name, fresh[name])
    hf = with_adapters(model, config, "adapter", 0)
    device = str(next(model.parameters()).device)
    tensors = load_file(Path(folder) / STATE_FILE, device=device)
    frozen = {n: t for n, t in tensors.items() if n.startswith("cur.")}
    if frozen:
        make_cur(hf, 0, frozen)
    _load_state(hf, {n: t for n, t in tensors.items() if n not in frozen})
    for name, value in saved.items():
        setattr(hf.peft_config["default"], name, value)
    return hf


def save_state(hf: Any, folder: str | Path) -> None:
    """Write what the library's files leave out and training needs: pruned ranks and their
    importance, networks of prompts, the parts of C U R.
    """
    _order_config(Path(folder) / "adapter_config.json")
    kind, frozen = adapter_kind(hf), frozen_parts(hf)
    if kind != "ADALORA" and kind not in VIRTUAL_KINDS and not frozen:
        return
    tensors = {f"parameter.{n}": p.detach() for n, p in hf.named_parameters() if p.requires_grad}
    tensors |= frozen
    for table, values in rank_tables(hf).items():
        tensors |= {f"{table}.{n}": t for n, t in values.items()}
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, Path(folder) / STATE_FILE)


def rank_tables(hf: Any) -> dict[str, dict[str, Any]]:
    """AdaLoRA's tables of the importance of ranks, by name; none of other models."""
    if adapter_kind(hf) != "ADALORA":
        return {}
    return {table: getattr(hf.base_model.rankallocator, table) for table in _TABLES}


def _order_config(file: Path) -> None:
    """Write an adapter's config anew with keys and names of layers in order: the library writes
    sets as they come.
    """
    if file.is_file():
        config = read_json(file)
        sets = ("target_modules", "exclude_modules", "feedforward_modules", "modules_to_save")
        config |= {k: sorted(config[k]) for k in sets if isinstance(config.get(k), list)}
        file.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _load_state(hf: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            head, _, rest = name.partition(".")
            if head == "parameter":
                hf.get_parameter(rest).copy_(tensor)
            else:
                getattr(hf.base_model.rankallocator, head)[rest] = tensor.clone()
