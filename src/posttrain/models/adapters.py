"""Fresh adapters, trained instead of all weights, through the optional library PEFT."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch

from posttrain.config import AdapterConfig, LoraConfig
from posttrain.errors import MissingDependency, ModelError, nearest
from posttrain.models.curlora import make_cur
from posttrain.models.model_files import adapter_of
from posttrain.models.peft_kind import adapter_kind
from posttrain.models.rank_updates import updates_of
from posttrain.models.virtual_tokens import refuse_virtual_score

__all__ = [
    "adapter_of",
    "add_adapter",
    "add_lora",
    "keeps_base",
    "peft_library",
    "rate_factors",
    "refuse_virtual_score",
    "save_merged",
    "updates_of",
    "with_adapters",
]

# What IA3 scales: keys, values, and the input of the MLP's last layer.
_SCALED = ("k_proj", "v_proj", "down_proj")


def add_lora(model: Any, settings: LoraConfig, *, seed: int = 0) -> Any:
    """The model with fresh low-rank adapters (LoRA, arXiv 2106.09685), its own weights frozen.

    Global random state stays as it was.

    Raises:
        MissingDependency: PEFT is not installed. ModelError: a target module does not exist or is
        the projection.
    """
    task = _task_type(model)
    _check_targets(model, settings.target_modules, "lora")
    config = peft_library().LoraConfig(
        task_type=task,
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        # "all-linear" would take in the head of a token classifier, which is trained in full.
        exclude_modules=None if task == "CAUSAL_LM" else ["score", "classifier"],
        use_rslora=settings.rslora,
        use_dora=settings.use_dora,
        init_lora_weights=True if settings.init == "default" else settings.init,
        modules_to_save=settings.modules_to_save,
    )
    return with_adapters(model, config, "lora", seed)


def add_adapter(model: Any, settings: AdapterConfig, *, tokenizer: str = "", seed: int = 0) -> Any:
    """The model with fresh adapters of another kind, its own weights frozen; for kinds that train
    some of these, see `models.partial`.

    Args:
        tokenizer: where the tokenizer is, which reads init_text.
    Raises:
        MissingDependency: PEFT is not installed. ModelError: a target module does not exist, or the
        kind does not fit.
    """
    task = _task_type(model)
    if task != "CAUSAL_LM":
        refuse_virtual_score(settings)
    _check_targets(model, settings.target_modules, "adapter")
    if settings.kind == "curlora":
        plain = with_adapters(model, _curlora(model, settings, task), "adapter", seed)
        return make_cur(plain, seed)
    make = {"adalora": _adalora, "vera": _vera, "ia3": _ia3}.get(settings.kind)
    config = (
        make(model, settings, task) if make is not None else _virtual(settings, task, tokenizer)
    )
    return with_adapters(model, config, "adapter", seed)


def _adalora(model: Any, settings: AdapterConfig, task: str) -> Any:
    r = settings.r or 8
    return peft_library().AdaLoraConfig(
        task_type=task,
        init_r=r + (r + 1) // 2,
        target_r=r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=_linear(settings),
        total_step=1 << 30,  # the schedule is set when the run's steps are known
    )


def _curlora(model: Any, settings: AdapterConfig, task: str) -> Any:
    r = settings.r or 16
    # Layers of the weights hold it to r of their own columns and rows.
    targets = _linear(settings)
    least = min(
        min(m.weight.shape)
        for n, m in model.named_modules()
        if isinstance(m, torch.nn.Linear) and (isinstance(targets, str) or _last(n) in targets)
    )
    if r > least:
        raise ModelError(
            f"adapter.r: {r} columns and rows of a matrix with {least}; set it to at most {least}"
        )
    return peft_library().LoraConfig(
        task_type=task, r=r, lora_alpha=r, target_modules=targets, init_lora_weights=True
    )


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _vera(model: Any, settings: AdapterConfig, task: str) -> Any:
    return peft_library().VeraConfig(
        task_type=task,
        r=settings.r or 256,
        vera_dropout=settings.dropout,
        target_modules=_linear(settings),
    )


def _ia3(model: Any, settings: AdapterConfig, task: str) -> Any:
    if settings.target_modules != "auto":
        targets = list(settings.target_modules)
    else:
        targets = sorted(set(_SCALED) & _linear_names(model))
        if len(targets) < len(_SCALED):
            raise ModelError(
                f"adapter: {type(model).__name__} has no layers {', '.join(_SCALED)}; name those "
                "that yield keys and values "
                "and the MLP's last one as adapter.target_modules"
            )
    outputs = [t for t in targets if t in ("down_proj", "fc2", "c_proj", "w2", "dense_4h_to_h")]
    return peft_library().IA3Config(
        task_type=task, target_modules=targets, feedforward_modules=outputs
    )


def _virtual(settings: AdapterConfig, task: str, tokenizer: str) -> Any:
    peft, count = peft_library(), settings.num_virtual_tokens
    if settings.kind == "prefix":
        size = settings.encoder_hidden_size
        return peft.PrefixTuningConfig(
            task_type=task,
            num_virtual_tokens=count,
            prefix_projection=size > 0,
            encoder_hidden_size=size or None,
        )
    if settings.kind == "p_tuning":
        size = settings.encoder_hidden_size or 128
        return peft.PromptEncoderConfig(
            task_type=task, num_virtual_tokens=count, encoder_hidden_size=size
        )
    if settings.init_text is None:
        return peft.PromptTuningConfig(
            task_type=task, num_virtual_tokens=count, prompt_tuning_init="SAMPLE_VOCAB"
        )
    return peft.PromptTuningConfig(
        task_type=task,
        num_virtual_tokens=count,
        prompt_tuning_init="TEXT",
        prompt_tuning_init_text=settings.init_text,
        tokenizer_name_or_path=tokenizer,
    )


def _linear(settings: AdapterConfig) -> Any:
    return "all-linear" if settings.target_modules == "auto" else list(settings.target_modules)


def with_adapters(model: Any, config: Any, what: str, seed: int) -> Any:
    """The model wrapped by PEFT, its adapters drawn with `seed`; `what` names them in errors."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(seed)
        warnings.filterwarnings("ignore", message=".*(PiSSA|OLoRA|initial|modifies|CorDA).*")
        # PEFT asks a new model for it under its old name.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
        try:
            return peft_library().get_peft_model(model, config)
        except (ValueError, RuntimeError, KeyError) as error:
            raise ModelError(f"{what}: {error}") from error


def rate_factors(model: Any, settings: LoraConfig | None) -> dict[torch.nn.Parameter, float]:
    """What learning rates are multiplied by: those of the matrices B, after LoRA+."""
    if settings is None or settings.lora_plus_ratio == 1:
        return {}
    named = model.named_parameters()
    return {
        p: settings.lora_plus_ratio
        for name, p in named
        if p.requires_grad and ("lora_B" in name or "embedding_B" in name)
    }


def keeps_base(hf: Any) -> bool:
    """Whether the model with its adapters switched off is the model that the run started from."""
    if not adapter_kind(hf):
        return False
    init = getattr(hf.peft_config["default"], "init_lora_weights", None)
    return init not in ("pissa", "olora")  # these take a part out of the base


def save_merged(model: Any, folder: Path) -> None:
    """Write a language model with its adapters added to the weights, as a folder without adapters.

    The model itself stays as it is.
    """
    merged = copy.deepcopy(model.hf).merge_and_unload()
    folder.mkdir(parents=True, exist_ok=True)
    merged.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


def _task_type(model: Any) -> str:
    """PEFT's name of what the model is for; a fresh score head is then trained in full and
    saved with the adapters.
    """
    name = type(model).__name__
    if name.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    return "TOKEN_CLS" if "TokenClass" in name else "CAUSAL_LM"


def _check_targets(model: Any, targets: str | list[str], what: str) -> None:
    if isinstance(targets, str):
        return
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    head = model.get_output_embeddings()
    for target in targets:
        last = target.rpartition(".")[2]
        modules = [m for n, m in model.named_modules() if n.rpartition(".")[2] == last]
        if last not in names:
            raise ModelError(
                f"{what}.target_modules: no layer is called {target!r}: "
                f"{nearest(last, _linear_names(model))}"
            )
        if any(module is head for module in modules):
            raise ModelError(
                f"{what}.target_modules: {target!r} is the vocabulary projection, which cannot "
                "carry an adapter here; "
                f"leave it out or train it in full with lora.modules_to_save"
            )


def _linear_names(model: Any) -> set[str]:
    return {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if hasattr(module, "weight") and name
    }


def peft_library() -> Any:
    """The library PEFT.

    Raises:
        MissingDependency: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingDependency("peft", "peft") from error
    return peft
