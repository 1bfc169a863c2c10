"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685), through the optional library PEFT."""

from __future__ import annotations

from typing import Any

import torch

from posttrain.config import LoraConfig
from posttrain.errors import MissingDependency, ModelError, nearest


def add_lora(model: Any, settings: LoraConfig, *, seed: int = 0) -> Any:
    """The model with fresh adapters, its own weights frozen. Global random state stays as it was.

    Raises:
        MissingDependency: PEFT is not installed. ModelError: a target module does not exist or is the projection.
    """
    peft = _peft()
    task = _task_type(model)
    config = peft.LoraConfig(
        task_type=task,
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        # "all-linear" would take in the head of a token classifier, which is trained in full.
        exclude_modules=None if task == "CAUSAL_LM" else ["score", "classifier"],
        use_rslora=settings.rslora,
        modules_to_save=settings.modules_to_save,
    )
    _check_targets(model, settings)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(model, config)
        except ValueError as error:
            raise ModelError(f"lora: {error}") from error


def _task_type(model: Any) -> str:
    """PEFT's name of what the model is for; a fresh score head is then trained in full and saved with the adapters."""
    name = type(model).__name__
    return "SEQ_CLS" if name.endswith("ForSequenceClassification") else "TOKEN_CLS" if "TokenClass" in name else "CAUSAL_LM"


def load_adapter(model: Any, folder: str, *, trainable: bool = True) -> Any:
    """The model with the adapters of a PEFT folder."""
    try:
        return _peft().PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    except (ValueError, RuntimeError, OSError) as error:
        raise ModelError(f"the adapter {folder} does not fit its base model: {error}") from error


def _check_targets(model: Any, settings: LoraConfig) -> None:
    if isinstance(settings.target_modules, str):
        return
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    head = model.get_output_embeddings()
    for target in settings.target_modules:
        last = target.rpartition(".")[2]
        if last not in names:
            raise ModelError(f"lora.target_modules: no layer is called {target!r}: {nearest(last, _linear_names(model))}")
        if any(module is head for name, module in model.named_modules() if name.rpartition(".")[2] == last):
            raise ModelError(
                f"lora.target_modules: {target!r} is the vocabulary projection, which cannot carry an adapter here; "
                f"leave it out or train it in full with lora.modules_to_save"
            )


def _linear_names(model: Any) -> set[str]:
    return {name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "weight") and name}


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingDependency("peft", "peft") from error
    return peft
