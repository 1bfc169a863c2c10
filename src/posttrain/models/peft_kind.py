"""Which kind of PEFT adapters a model carries."""

from __future__ import annotations

from typing import Any

VIRTUAL_KINDS = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
"""PEFT's names of the kinds that put trained tokens before every sequence."""


def is_peft(model: Any) -> bool:
    """Whether a model is wrapped by PEFT."""
    return hasattr(model, "get_base_model")


def adapter_kind(hf: Any) -> str:
    """PEFT's name of the kind of adapters, "" for a model without."""
    return kind_of_config(hf.peft_config["default"]) if is_peft(hf) else ""


def kind_of_config(config: Any) -> str:
    """PEFT's name of the kind that a PEFT config describes."""
    return str(getattr(config.peft_type, "value", config.peft_type))
