"""Loading models: every check that needs no weights is made before they are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

from posttrain.config import AdapterConfig, LoraConfig
from posttrain.errors import ModelError
from posttrain.models.adapter_state import load_adapter
from posttrain.models.adapters import add_adapter, add_lora
from posttrain.models.class_head import Classes
from posttrain.models.classifier import Classifier
from posttrain.models.compilation import check_compiler, compile_layers
from posttrain.models.expansion import train_new_blocks
from posttrain.models.finite import check_finite
from posttrain.models.forest_model import ForestModel
from posttrain.models.language_model import LanguageModel
from posttrain.models.model_files import (
    Kind,
    adapter_of,
    check_weight_files,
    load_config,
    score_level,
)
from posttrain.models.partial import freeze
from posttrain.models.score_model import ScoreModel
from posttrain.models.tokenizer import load_tokenizer, separate_padding, tokenizer_source
from posttrain.models.virtual_tokens import refuse_virtual_score, virtual_tokens
from posttrain.models.weights import (
    align,
    check_choice,
    load_weights,
    quantization_config,
    resolved_device,
    resolved_dtype,
)

__all__ = [
    "Kind",
    "load_config",
    "load_model",
    "load_score_model",
    "load_tokenizer",
    "resolved_dtype",
    "score_level",
    "separate_padding",
]


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
    hf, tokens, attention, running = _load(path, "language", **options)
    model = LanguageModel(hf, tokens).eval()
    model.fresh_adapters = adapter_of(str(path)) is None
    model.check_head()
    _prepare(model, str(path), attention, running)
    if reference:
        model.enable_reference()
    return model


def load_score_model(
    path: str | Path, *, per: Literal["sequence", "token"] | Classes = "sequence", **options: Any
) -> ScoreModel:
    """Load a model with one score or several classes, or put a fresh head on a language model.

    Args:
        path: a folder or hub name of a sequence or token classification model with one label, or of
        a causal language model.
        per: what is scored, which decides the format it is saved in; or the classes of a
        classifier. options: see `_load`.
    Returns:
        The model in evaluation mode. A fresh head is zero, so that all scores are 0 at first.
    Raises:
        ModelError: before weights load, where that is possible.
    """
    kinds: dict[Any, Kind] = {"sequence": "sequence_score", "token": "token_score"}
    if isinstance(per, Classes):
        options["classes"] = per
    hf, tokens, attention, running = _load(path, kinds.get(per, "classes"), **options)
    separate_padding(tokens)
    hf.config.pad_token_id = (
        tokens.pad_token_id
    )  # transformers refuses batches of such a model otherwise
    model = Classifier(hf, tokens) if isinstance(per, Classes) else ScoreModel(hf, tokens)
    model.eval()
    _prepare(model, str(path), attention, running)
    return model


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
    classes: Classes | None = None,
    **running: bool,
) -> tuple[Any, PreTrainedTokenizerBase, str, dict[str, bool]]:
    """The transformers model on its device, its tokenizer, and the arguments of `_prepare`:
    attention and how the model runs.

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
        seed: of all that is drawn here. classes: of a classifier.
        running: gradient_checkpointing, activation_offload and compile, see `ModelConfig`.
    """
    path = str(path)
    saved = adapter_of(path)
    if saved is not None:
        _refuse_second_adapter(path, lora, adapter)
    where = saved["base_model_name_or_path"] if saved is not None else path
    check_choice("attention", attention, ("auto", "forest", "unshared"))
    check_choice("init", init, ("pretrained", "random"))
    if kind != "language":
        refuse_virtual_score(adapter)
    target = resolved_device(device)
    precision = resolved_dtype(dtype, device)
    _check_running(target, **running)
    shared: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = load_config(where, kind=kind, **shared)
    if classes is not None:
        classes.write(config)
    if init == "pretrained":
        check_weight_files(where)
    tokens = load_tokenizer(
        tokenizer_source(path, where, tokenizer), chat_template=chat_template, **shared
    )
    _check_vocabulary(where, config, tokens)
    if quantization != "none":
        shared["quantization_config"] = quantization_config(quantization, precision, init)
        shared["device_map"] = {"": target}
    hf = load_weights(where, kind, config, init, precision, seed, shared)
    if quantization == "none":
        hf = hf.to(target)
        align(hf)
    if saved is not None:
        hf = load_adapter(hf, path)
    elif lora is not None:
        hf = add_lora(hf, lora, seed=seed)
    elif adapter is not None and adapter.kind == "llama_pro":
        train_new_blocks(hf, adapter.num_blocks)
    elif adapter is not None and adapter.own_weights:
        freeze(hf, adapter)
    elif adapter is not None:
        hf = add_adapter(hf, adapter, tokenizer=tokens.name_or_path, seed=seed)
    check_finite(hf, path)
    return hf, tokens, attention, running


def _refuse_second_adapter(
    path: str, lora: LoraConfig | None, adapter: AdapterConfig | None
) -> None:
    """Weights that hold adapters take no others."""
    if lora is not None or adapter is not None:
        key = "lora" if lora is not None else "adapter"
        raise ModelError(
            f"{path} already holds adapters; train those (leave out {key}) or start from their "
            "base model"
        )


def _check_vocabulary(where: str, config: Any, tokens: PreTrainedTokenizerBase) -> None:
    """Each token has an embedding."""
    vocabulary = config.get_text_config(decoder=True).vocab_size
    if len(tokens) > vocabulary:
        raise ModelError(
            f"{where}: the tokenizer has {len(tokens)} tokens but the model only {vocabulary} "
            "embeddings; use the tokenizer that belongs to this model"
        )


def _prepare(model: ForestModel, path: str, attention: str, running: dict[str, bool]) -> None:
    """Decide how the model runs forests, and what becomes of activations."""
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
    if running.get("gradient_checkpointing"):
        model.enable_gradient_checkpointing()
    model.program.offloads = running.get("activation_offload", False)
    if running.get("compile"):
        compile_layers(model)


def _check_running(
    device: torch.device,
    *,
    gradient_checkpointing: bool = False,
    activation_offload: bool = False,
    compile: bool = False,
) -> None:
    """Refuse what cannot work on a device."""
    if activation_offload and device.type == "cpu":
        raise ModelError(
            "model.activation_offload: activations go from a GPU to the CPU, and the model is on "
            "the CPU; leave it out"
        )
    if compile:
        check_compiler(device)
