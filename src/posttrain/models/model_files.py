"""The files of a model folder: its configs, and the headers of its weights. No weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from posttrain.errors import ModelError
from posttrain.models.virtual_tokens import refuse_virtual_score

Kind = Literal["language", "sequence_score", "token_score", "classes"]
"""What a model gives: a vocabulary, a score of a whole sequence or at every token, or classes."""

_LANGUAGE_MODELS = ("CausalLM", "LMHeadModel", "ConditionalGeneration")
_SCORE_MODELS = ("ForSequenceClassification", "ForTokenClassification")


def adapter_of(path: str) -> dict[str, Any] | None:
    """The adapter config of a PEFT folder, None for anything else.

    Raises:
        ModelError: it cannot be read, or does not name the base model.
    """
    file = Path(path) / "adapter_config.json"
    if not file.is_file():
        return None
    adapter = read_json(file)
    if not adapter.get("base_model_name_or_path"):
        raise ModelError(f"{file} does not name the base model (base_model_name_or_path)")
    return adapter


def read_json(file: Path) -> dict[str, Any]:
    """The object that a JSON file of a model folder holds.

    Raises:
        ModelError: it cannot be read, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} holds a {type(content).__name__}, not an object")
    return content


def load_config(path: str, *, kind: Kind = "language", **shared: Any) -> Any:
    """The config of a folder or hub name, without its weights.

    Args:
        kind: what will be loaded; a score model may start from a language model.
        shared: revision, trust_remote_code.
    Raises:
        ModelError: no such folder, no config, or not a causal language model (nor, for another
        kind, a score model).
    """
    adapter = adapter_of(path)
    if adapter is not None and kind != "language":
        refuse_virtual_score(adapter)
    path = adapter["base_model_name_or_path"] if adapter is not None else path
    folder = Path(path).expanduser()
    looks_local = folder.is_absolute() or path.startswith(("./", "../", "~")) or path.count("/") > 1
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise _no_model(path, folder)
        read_json(folder / "config.json")
    elif folder.exists() or looks_local:
        raise ModelError(f"no model folder {path} (looked for {folder.absolute()})")
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder) if folder.is_dir() else path, **shared)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path}: neither a model folder nor a model on the hub: {first_line(error)}"
        ) from error
    _check_architecture(path, kind, config)
    return config


def _check_architecture(path: str, kind: Kind, config: Any) -> None:
    """Refuse what is no causal language model, nor (for another kind) a score model."""
    is_remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if getattr(config, "is_encoder_decoder", False) or not (is_remote or _is_causal(config)):
        raise ModelError(f"{path} is a {config.model_type!r} model, not a causal language model")
    architectures = list(config.architectures or [])
    suffixes = _LANGUAGE_MODELS if kind == "language" else _LANGUAGE_MODELS + _SCORE_MODELS
    others = [name for name in architectures if not name.endswith(suffixes)]
    if others and others == architectures and not is_remote:
        raise ModelError(
            f"{path} holds a {others[0]}, not a causal language model; use the model it was made "
            "from"
        )
    is_scored = any("Classification" in name for name in architectures) and kind != "classes"
    if is_scored and config.num_labels != 1:
        raise ModelError(
            f"{path} has {config.num_labels} labels; a score is one number, so take a model with "
            "one label"
        )


def _is_causal(config: Any) -> bool:
    """Whether transformers has a causal language model for a configuration."""
    names = config.architectures or []
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return True
    from transformers import AutoModelForCausalLM  # takes seconds, so it comes second

    return type(config) in AutoModelForCausalLM._model_mapping


def score_level(path: str | Path) -> Literal["sequence", "token"]:
    """Whether a folder or hub name holds a model with a score for a whole sequence or at every
    token; no weights are read.

    Raises:
        ModelError: it holds a language model, or a score of several labels.
    """
    adapter = adapter_of(str(path))
    config = load_config(str(path), kind="sequence_score")
    names = list(config.architectures or [])
    if adapter is not None:
        names = [str(adapter.get("task_type"))]
    if any(n == "TOKEN_CLS" or n.endswith("ForTokenClassification") for n in names):
        return "token"
    if any(n == "SEQ_CLS" or n.endswith("ForSequenceClassification") for n in names):
        return "sequence"
    raise ModelError(
        f"{path} holds a language model, which gives no score; train one with `posttrain "
        "reward_model`"
    )


def _no_model(path: str, folder: Path) -> ModelError:
    """The error of a folder that holds neither a model nor a run."""
    inside = sorted(p.parent for p in folder.glob("*/config.json"))
    inside += sorted(p.parent for p in folder.glob("*/recipe.yaml"))
    way = f"did you mean {inside[0]}? " if inside else ""
    return ModelError(
        f"{path} has no config.json; {way}A model folder holds config.json, weights and a "
        "tokenizer. Or give the folder of a run (with recipe.yaml and model/), a hub id, or "
        "'embedded'"
    )


def check_weight_files(path: str) -> None:
    """Check that a local folder holds weights, every shard, and headers that can be read.

    Raises:
        ModelError: it does not. A hub name is not checked.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        for shard in sorted(set(read_json(index).get("weight_map", {}).values())):
            if not (folder / shard).is_file():
                raise ModelError(
                    f"{path}: {index.name} names {shard}, which is missing; download or copy the "
                    "model again"
                )
    files = sorted(folder.glob("*.safetensors"))
    if not files and not list(folder.glob("pytorch_model*.bin")):
        raise ModelError(
            f"{path} has no weights (*.safetensors); for fresh ones from its config use init = "
            "random"
        )
    for file in files:
        try:
            with safe_open(str(file), framework="pt") as handle:
                handle.keys()
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file} is broken ({first_line(error)}); download or copy the model again"
            ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return str(error).strip().partition("\n")[0]
