"""Weights of a transformers model: how they are loaded, drawn or quantised, and where they lie."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from posttrain.errors import MissingDependency, ModelError, nearest
from posttrain.models.model_files import Kind, first_line

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def _class_of(kind: Kind) -> Any:
    """The class of transformers that loads a kind of model. The import takes seconds."""
    import transformers

    # Its bars would break into the run's own display.
    transformers.utils.logging.disable_progress_bar()
    return {
        "language": transformers.AutoModelForCausalLM,
        "sequence_score": transformers.AutoModelForSequenceClassification,
        "token_score": transformers.AutoModelForTokenClassification,
        "classes": transformers.AutoModelForSequenceClassification,
    }[kind]


def load_weights(
    path: str,
    kind: Kind,
    config: Any,
    init: str,
    dtype: torch.dtype,
    seed: int,
    shared: dict[str, Any],
) -> Any:
    """The transformers model of a folder or hub name.

    Args:
        init: "random" draws fresh weights with `seed`. shared: further arguments of transformers.
    Raises:
        ModelError: the weights cannot be read, or some are missing. The head of a score model may
        be missing; it is then zero.
    """
    if kind in ("sequence_score", "token_score"):
        config.num_labels = 1
    if init == "random":
        return _drawn(path, _class_of(kind), config, dtype, seed, shared["trust_remote_code"])
    folder = Path(path).expanduser()
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    if kind != "language":  # that a fresh head is fresh needs no warning
        transformers_logging.set_verbosity_error()
    try:
        with torch.random.fork_rng():
            hf, report = _class_of(kind).from_pretrained(
                str(folder) if folder.is_dir() else path,
                config=config,
                dtype=dtype,
                output_loading_info=True,
                **shared,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path}: the weights cannot be loaded: {first_line(error)}") from error
    finally:
        transformers_logging.set_verbosity(level)
    _fill_head(path, kind, hf, sorted(report["missing_keys"]))
    return hf


def _drawn(
    path: str, make: Any, config: Any, dtype: torch.dtype, seed: int, trust_remote_code: bool
) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hf = make.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    hf.name_or_path = hf.config._name_or_path = path
    return hf


def _fill_head(path: str, kind: Kind, hf: Any, missing: list[str]) -> None:
    """Set the head of a score model to zero if its weights are missing; refuse other gaps."""
    if not missing:
        return
    of_head = all(name.startswith(("score.", "classifier.")) for name in missing)
    if kind == "language" or not of_head:
        raise ModelError(
            f"{path}: {len(missing)} weights are not in the files, {missing[0]} first; this is "
            "not a whole model"
        )
    with torch.no_grad():
        for name in missing:
            hf.get_parameter(name).zero_()


def align(hf: Any) -> None:
    """Copy weights off 64-byte bounds: products on a CPU round by where factors lie, which
    would make resuming inexact.
    """
    for p in hf.parameters():
        if p.device.type == "cpu" and p.data_ptr() % 64:
            p.data = p.data.clone()


def quantization_config(quantization: str, dtype: torch.dtype, init: str) -> Any:
    """The settings that transformers loads quantised weights with (QLoRA, arXiv 2305.14314).

    Raises:
        ModelError: fresh weights. MissingDependency: bitsandbytes is not installed.
    """
    if init == "random":
        raise ModelError(
            f"quantization is {quantization!r}, which keeps trained weights in few bits; init = "
            "random has none"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependency("bitsandbytes", "quantization")
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def resolved_device(name: str) -> torch.device:
    """Where weights are kept: "auto" is CUDA if there is a device, else CPU.

    Raises:
        ModelError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"device is {name!r}: {nearest(name, ('auto', 'cpu', 'cuda'))}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"device is {name!r} but torch finds no CUDA device here; use device = cpu"
        )
    return device


def resolved_dtype(name: str, device: str) -> torch.dtype:
    """What weights are kept in: "auto" is float32 on CPU and bfloat16 on CUDA.

    Raises:
        ModelError: no such dtype, or no such device here.
    """
    check_choice("dtype", name, ("auto", *_DTYPES))
    if name == "auto":
        return torch.bfloat16 if resolved_device(device).type == "cuda" else torch.float32
    return _DTYPES[name]


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices.

    Raises:
        ModelError: naming the nearest choice.
    """
    if value not in choices:
        raise ModelError(f"{name} is {value!r}: {nearest(str(value), choices)}")
