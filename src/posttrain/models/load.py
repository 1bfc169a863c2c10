"""Loading models and tokenizers, with every check that needs no weights made before they are
read.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from posttrain.config import AdapterConfig, LoraConfig
from posttrain.errors import MissingDependency, ModelError, nearest
from posttrain.models.adapters import (
    adapter_of,
    add_adapter,
    add_lora,
    freeze,
    load_adapter,
    read_json,
    refuse_virtual_score,
    virtual_tokens,
)
from posttrain.models.finite import check_finite
from posttrain.models.forest_model import ForestModel
from posttrain.models.language_model import LanguageModel
from posttrain.models.score_model import ScoreModel

# Its bars would break into the run's own display.
transformers_logging.disable_progress_bar()

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

Kind = Literal["language", "sequence_score", "token_score"]

_CLASSES: dict[str, Any] = {
    "language": AutoModelForCausalLM,
    "sequence_score": AutoModelForSequenceClassification,
    "token_score": AutoModelForTokenClassification,
}


def load_model(
    path: str | Path,
    *,
    reference: bool = False,
    **options: Any,
) -> LanguageModel:
    """Load a causal language model with its tokenizer.

    Args:
        reference: keep a frozen copy for ref_logprobs (with fresh adapters nothing is copied).
        options: see `_load`.
    Returns:
        The model in evaluation mode. Global random state is as it was.
    Raises:
        ModelError: before weights load, where that is possible.
    """
    hf, tokens, attention, checkpointing = _load(path, "language", **options)
    model = LanguageModel(hf, tokens).eval()
    model.fresh_adapters = adapter_of(str(path)) is None
    model.check_head()
    _prepare(model, str(path), attention, checkpointing)
    if reference:
        model.enable_reference()
    return model


def load_score_model(
    path: str | Path, *, per: Literal["sequence", "token"] = "sequence", **options: Any
) -> ScoreModel:
    """Load a model with one score, or put a fresh score head on a language model.

    Args:
        path: a folder or hub name of a sequence or token classification model with one label, or of
        a causal language model.
        per: what is scored, which decides the format it is saved in. options: see `_load`.
    Returns:
        The model in evaluation mode. A fresh head is zero, so that all scores are 0 at first.
    Raises:
        ModelError: before weights load, where that is possible.
    """
    hf, tokens, attention, checkpointing = _load(
        path, "sequence_score" if per == "sequence" else "token_score", **options
    )
    separate_padding(tokens)
    hf.config.pad_token_id = (
        tokens.pad_token_id
    )  # transformers refuses batches of such a model otherwise
    model = ScoreModel(hf, tokens)
    model.eval()
    _prepare(model, str(path), attention, checkpointing)
    return model


def separate_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the padding token differ from EOS, if some special token does.

    A sequence classification model of transformers reads its score at the last token that is not
    padding: where EOS served as padding too, it would read a completion before its end.
    """
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        others = [
            t
            for t in (tokenizer.unk_token, tokenizer.bos_token, *tokenizer.all_special_tokens)
            if t is not None
        ]
        tokenizer.pad_token = next(
            (t for t in others if t != tokenizer.eos_token), tokenizer.eos_token
        )


def score_level(path: str | Path) -> Literal["sequence", "token"]:
    """Whether a folder or hub name holds a model with a score for a whole sequence or at every
    token; no weights are read.

    Raises:
        ModelError: it holds a language model, or a score of several labels.
    """
    adapter = adapter_of(str(path))
    config = load_config(str(path), kind="sequence_score")
    told = (
        [str(adapter.get("task_type"))] if adapter is not None else list(config.architectures or [])
    )
    if any(t == "TOKEN_CLS" or t.endswith("ForTokenClassification") for t in told):
        return "token"
    if any(t == "SEQ_CLS" or t.endswith("ForSequenceClassification") for t in told):
        return "sequence"
    raise ModelError(
        f"{path} holds a language model, which gives no score; train one with `posttrain "
        "reward_model`"
    )


def _load(
    path: str | Path,
    kind: Kind,
    *,
    tokenizer: str | None = None,
    chat_template: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto",
    device: str = "auto",
    attention: Literal["auto", "forest", "unshared"] = "auto",
    init: Literal["pretrained", "random"] = "pretrained",
    lora: LoraConfig | None = None,
    adapter: AdapterConfig | None = None,
    quantization: Literal["none", "nf4", "int8"] = "none",
    revision: str | None = None,
    trust_remote_code: bool = False,
    seed: int = 0,
    gradient_checkpointing: bool = False,
) -> tuple[Any, PreTrainedTokenizerBase, str, bool]:
    """The transformers model on its device, its tokenizer, and what `_prepare` has to know.

    Args:
        path: a folder, a folder of PEFT adapters, or a name on the Hugging Face hub.
        tokenizer: where the tokenizer is, if not in `path`. chat_template: a Jinja template or a
        file that holds one.
        dtype: "auto" is float32 on CPU and bfloat16 on CUDA. device: "auto" is CUDA where there is
        one, else CPU.
        attention: "auto" shares trunks if a probe finds it exact, "forest" fails if not, "unshared"
        never does.
        init: "random" makes fresh weights from the config alone, drawn with `seed`.
        lora, adapter: what is trained in place of all weights. quantization: how the weights below
        adapters are kept.
        seed: of all that is drawn here.
    """
    path = str(path)
    saved = adapter_of(path)
    if saved is not None and (lora is not None or adapter is not None):
        own = "lora" if lora is not None else "adapter"
        raise ModelError(
            f"{path} already holds adapters; train those (leave out {own}) or start from their "
            "base model"
        )
    where = saved["base_model_name_or_path"] if saved is not None else path
    _check_choice("attention", attention, ("auto", "forest", "unshared"))
    _check_choice("init", init, ("pretrained", "random"))
    if kind != "language":
        refuse_virtual_score(adapter)
    target = _device(device)
    precision = resolved_dtype(dtype, device)
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = load_config(where, kind=kind, **shared)
    if init == "pretrained":
        _check_weight_files(where)
    tokens = load_tokenizer(
        _tokenizer_source(path, where, tokenizer), chat_template=chat_template, **shared
    )
    vocabulary = config.get_text_config(decoder=True).vocab_size
    if len(tokens) > vocabulary:
        raise ModelError(
            f"{where}: the tokenizer has {len(tokens)} tokens but the model only {vocabulary} "
            "embeddings; "
            f"use the tokenizer that belongs to this model"
        )
    if quantization != "none":
        shared["quantization_config"] = _quantized(quantization, precision, init)
        shared["device_map"] = {"": target}
    hf = _load_weights(where, kind, config, init, precision, seed, shared)
    if quantization == "none":
        hf = hf.to(target)
        _align(hf)
    if saved is not None:
        hf = load_adapter(hf, path)
    elif lora is not None:
        hf = add_lora(hf, lora, seed=seed)
    elif adapter is not None and adapter.own_weights:
        freeze(hf, adapter)
    elif adapter is not None:
        hf = add_adapter(hf, adapter, tokenizer=tokens.name_or_path, seed=seed)
    check_finite(hf, path)
    return hf, tokens, attention, gradient_checkpointing


def _prepare(model: ForestModel, path: str, attention: str, gradient_checkpointing: bool) -> None:
    """Decide how the model runs forests, and whether activations are kept."""
    if attention == "unshared":
        model.keep_unshared("attention = unshared")
    else:
        model.share_trunks()
    model.virtual = virtual_tokens(model.hf)
    if model.virtual is not None and not model.shares_trunks:
        raise ModelError(
            f"{path}: virtual tokens (prompt, prefix and P-tuning) stand before a token forest, "
            "which this model does not run "
            f"({model.why_unshared}); use model.lora, or attention = auto"
        )
    if attention == "forest" and not model.shares_trunks:
        raise ModelError(
            f"{path} cannot run token forests: {model.why_unshared}; use attention = auto"
        )
    if gradient_checkpointing:
        model.enable_gradient_checkpointing()


def load_tokenizer(
    path: str | Path,
    *,
    chat_template: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name; `chat_template` (Jinja, or a file that holds it)
    replaces its template.

    Raises:
        ModelError: there is none, or the template file is missing.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(path), revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path} has no tokenizer that can be loaded ({_first_line(error)}); name one as "
            "`tokenizer`"
        ) from error
    if chat_template is not None:
        if "{" not in chat_template:
            if not Path(chat_template).is_file():
                raise ModelError(
                    f"chat_template {chat_template!r} is neither a file nor a Jinja template"
                )
            chat_template = Path(chat_template).read_text(encoding="utf-8")
        tokenizer.chat_template = chat_template
    return tokenizer


def _tokenizer_source(path: str, base: str, tokenizer: str | None) -> str:
    """Adapters saved with a tokenizer bring their own; else the base model's."""
    own = path if (Path(path) / "tokenizer_config.json").is_file() else base
    return tokenizer or own


def load_config(path: str, *, kind: Kind = "language", **shared: Any) -> Any:
    """The config of a folder or hub name, without its weights.

    Args:
        kind: what will be loaded; a score model may start from a language model.
        shared: revision, trust_remote_code.
    Raises:
        ModelError: no such folder, no config, or not a causal language model (nor, where wanted,
        one with a score).
    """
    adapter = adapter_of(path)
    if adapter is not None and kind != "language":
        refuse_virtual_score(adapter)
    path = adapter["base_model_name_or_path"] if adapter is not None else path
    folder = Path(path).expanduser()
    looks_local = folder.is_absolute() or path.startswith(("./", "../", "~")) or path.count("/") > 1
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"{path} has no config.json; a model folder holds config.json, weights and a "
                "tokenizer"
            )
        read_json(folder / "config.json")
    elif folder.exists() or looks_local:
        raise ModelError(f"no model folder {path} (looked for {folder.absolute()})")
    try:
        config = AutoConfig.from_pretrained(str(folder) if folder.is_dir() else path, **shared)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path}: neither a model folder nor a model on the hub: {_first_line(error)}"
        ) from error
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    known = type(config) in AutoModelForCausalLM._model_mapping
    if getattr(config, "is_encoder_decoder", False) or not (known or remote):
        raise ModelError(f"{path} is a {config.model_type!r} model, not a causal language model")
    known_as: tuple[str, ...] = ("CausalLM", "LMHeadModel", "ConditionalGeneration")
    if kind != "language":
        known_as += ("ForSequenceClassification", "ForTokenClassification")
    others = [a for a in config.architectures or [] if not a.endswith(known_as)]
    if others and others == list(config.architectures) and not remote:
        raise ModelError(
            f"{path} holds a {others[0]}, not a causal language model; use the model it was made "
            "from"
        )
    if any("Classification" in a for a in config.architectures or []) and config.num_labels != 1:
        raise ModelError(
            f"{path} has {config.num_labels} labels; a score is one number, so take a model with "
            "one label"
        )
    return config


def _check_weight_files(path: str) -> None:
    """Of a local folder: there are weights, every shard is there, every header can be read."""
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
                f"{file} is broken ({_first_line(error)}); download or copy the model again"
            ) from error


def _load_weights(
    path: str,
    kind: Kind,
    config: Any,
    init: str,
    dtype: torch.dtype,
    seed: int,
    shared: dict[str, Any],
) -> Any:
    make = _CLASSES[kind]
    if kind != "language":
        config.num_labels = 1
    if init == "random":
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            hf = make.from_config(
                config, dtype=dtype, trust_remote_code=shared["trust_remote_code"]
            )
        hf.name_or_path = hf.config._name_or_path = path
        return hf
    level = transformers_logging.get_verbosity()
    if kind != "language":  # that a fresh head is fresh needs no warning
        transformers_logging.set_verbosity_error()
    try:
        with torch.random.fork_rng():
            loaded: Any = make.from_pretrained(
                str(Path(path).expanduser()) if Path(path).expanduser().is_dir() else path,
                config=config,
                dtype=dtype,
                output_loading_info=True,
                **shared,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path}: the weights cannot be loaded: {_first_line(error)}") from error
    finally:
        transformers_logging.set_verbosity(level)
    hf, report = loaded
    missing = sorted(report["missing_keys"])
    if (
        kind != "language"
        and missing
        and all(name.startswith(("score.", "classifier.")) for name in missing)
    ):
        with torch.no_grad():
            for name in missing:
                hf.get_parameter(name).zero_()
    elif missing:
        raise ModelError(
            f"{path}: {len(missing)} weights are not in the files, {missing[0]} first; this is "
            "not a whole model"
        )
    return hf


def _align(hf: Any) -> None:
    """Copy weights off 64-byte bounds: products on a CPU round by where factors lie, which
    would make resuming inexact.
    """
    for p in hf.parameters():
        if p.device.type == "cpu" and p.data_ptr() % 64:
            p.data = p.data.clone()


def _quantized(quantization: str, dtype: torch.dtype, init: str) -> Any:
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
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ModelError(f"{name} is {value!r}: {nearest(str(value), known)}")


def _device(name: str) -> torch.device:
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
    _check_choice("dtype", name, ("auto", *_DTYPES))
    if name == "auto":
        return torch.bfloat16 if _device(device).type == "cuda" else torch.float32
    return _DTYPES[name]


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
